"""The Helm chart: what it renders (by Helm itself, as a library) is valid to Kubernetes and means something to headrace.

No cluster is near: that pods start, that probes are answered and that KEDA scales is not seen here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace import metrics
from headrace.api.health import build_health_routes
from headrace.cli.app import app
from headrace.settings import PREFIX, Settings

helm = pytest.importorskip("helm_python", reason="Helm as a library is installed by `make test`")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="installed by `make test`")
yaml = pytest.importorskip("yaml", reason="installed by `make test`")

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "deploy" / "helm" / "headrace"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
SCALE = ROOT / "docs" / "explanation" / "scale.md"

LEAST: dict[str, Any] = {
    "image": {"repository": "example/shop", "tag": "1.2"},
    "database": {"existingSecret": "headrace"},
    "payloadStore": "s3://bucket/payloads",
}
FULL: dict[str, Any] = {
    **LEAST,
    "settings": {"HEADRACE_LEASE": "1m", "HEADRACE_HEARTBEAT": 10},
    "extraEnv": [{"name": "REGION", "value": "eu"}],
    "extraEnvFrom": [{"secretRef": {"name": "bucket"}}],
    "imagePullSecrets": [{"name": "pull"}],
    "serviceAccount": {"annotations": {"role": "payloads"}},
    "podAnnotations": {"team": "shop"},
    "server": {"nodeSelector": {"disk": "none"}, "tolerations": [{"operator": "Exists"}]},
    "service": {"annotations": {"a": "b"}},
    "workers": [
        {"name": "a", "tasks": "shop.tasks", "environment": "prod"},
        {
            "name": "a-b",
            "tasks": "shop.images",
            "environment": "prod",
            "queues": ["images", "task/resize"],
            "concurrency": 4,
            "drainTimeout": 600,
            "image": {"tag": "1.3-images"},
            "settings": {"HEADRACE_WAIT_LINGER": "5s"},
            "extraEnv": [{"name": "THREADS", "value": "4"}],
            "affinity": {"podAntiAffinity": {}},
            "autoscaling": {"enabled": True, "maxReplicas": 50},
        },
        {
            "name": "c",
            "tasks": "shop.letters",
            "environment": "staging",
            "queues": ["letters"],
            "autoscaling": {"enabled": True, "kind": "hpa", "runsPerReplica": 7},
        },
    ],
    "metrics": {
        "serviceMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "apiKeys": [
                {"environment": "prod", "secret": "metrics", "key": "PROD"},
                {"environment": "staging", "secret": "metrics", "key": "STAGING"},
            ],
        }
    },
}
OF_OTHERS = {"ScaledObject", "ServiceMonitor", "PodMonitor"}
"""Kinds that KEDA and the Prometheus operator define: Kubernetes has no schema of them."""

LABEL = re.compile(r"(\w+)=~?\"")


def render(values: dict[str, Any], **how: Any) -> list[dict[str, Any]]:
    with helm.Chart.load(str(CHART)) as chart:
        texts = chart.render(values, name="demo", namespace="jobs", **how)
    return [one for name, text in texts.items() if name.endswith(".yaml") for one in yaml.safe_load_all(text) if one]


@pytest.fixture(scope="module")
def full() -> list[dict[str, Any]]:
    return render(FULL)


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"].removeprefix("demo-headrace-"): one for one in manifests if one["kind"] == kind}


def list_pods(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pod templates of Deployments and Jobs by their objects' names."""
    found = {**of_kind(manifests, "Deployment"), **of_kind(manifests, "Job")}
    return {name: one["spec"]["template"] for name, one in found.items()}


def list_environment(pod: dict[str, Any]) -> dict[str, str | None]:
    """The variables of a pod's container; None for one that comes of a Secret."""
    [container] = pod["spec"]["containers"]
    names = [one["name"] for one in container["env"]]
    assert len(names) == len(set(names))
    return {one["name"]: one.get("value") for one in container["env"]}


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "NotIn"
        if labels.get(rule["key"]) in rule["values"]:
            return False
    wanted = selector.get("matchLabels", {})
    assert wanted
    return wanted.items() <= labels.items()


@pytest.mark.parametrize("values", [LEAST, FULL], ids=["least", "full"])
def test_everything_that_is_rendered_is_valid_to_kubernetes(values):
    manifests = render(values)
    for manifest in manifests:
        if manifest["kind"] not in OF_OTHERS:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    named = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(named) == len(set(named))
    assert {"Deployment", "Service", "Job", "PodDisruptionBudget", "ServiceAccount"} <= {kind for kind, _ in named}


def test_all_kinds_are_among_what_is_rendered(full):
    kinds = {one["kind"] for one in full}
    assert kinds >= OF_OTHERS | {"HorizontalPodAutoscaler"}
    assert OF_OTHERS.isdisjoint(one["kind"] for one in render(LEAST))


def test_helm_finds_nothing_to_say_but_that_there_is_no_icon():
    linted = helm.lint(str(CHART), values=LEAST)
    assert linted["errors"] == []
    assert [one["error"] for one in linted["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (("image", "repository"), "image.repository"),
        (("image", "tag"), "image.tag"),
        (("database", "existingSecret"), "database.existingSecret"),
        (("payloadStore",), "payloadStore"),
    ],
)
def test_what_has_no_default_is_asked_for_by_name(path, said):
    values = json.loads(json.dumps(LEAST))
    inner = values
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    with pytest.raises(helm.HelmError, match=re.escape(said)):
        render(values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": 3},
        {"server": {"replica": 3}},
        {"database": {"existingSecret": "x", "pooler": "session"}},
        {"payloadStore": "payloads"},
        {"settings": {"LEASE": "1m"}},
        {"workers": [{"name": "a", "environment": "prod"}]},
        {"workers": [{"name": "a", "tasks": "t", "environment": "Prod"}]},
        {"workers": [{"name": "A", "tasks": "t", "environment": "prod"}]},
        {"workerDefaults": {"autoscaling": {"kind": "cpu"}}},
    ],
)
def test_values_that_mean_nothing_are_refused(wrong):
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(chart.merge_values(FULL))
        with pytest.raises(helm.HelmError):
            chart.validate_schema(chart.merge_values({**LEAST, **wrong}))


def test_every_variable_is_a_setting_and_every_value_one_that_it_takes(full):
    for name, pod in list_pods(full).items():
        given = {key: value for key, value in list_environment(pod).items() if key.startswith(PREFIX)}
        for key in given:
            assert key.removeprefix(PREFIX).lower() in Settings.__dataclass_fields__, key
        Settings.from_environment({key: value for key, value in given.items() if value is not None})
        assert given["HEADRACE_DATABASE_URL"] is None, name
    workers = {name: list_environment(pod) for name, pod in list_pods(full).items() if name.startswith("worker-")}
    read = {name: Settings.from_environment({k: v for k, v in one.items() if v}) for name, one in workers.items()}
    assert [one.environment for one in read.values()] == ["prod", "prod", "staging"]
    assert [one.concurrency for one in read.values()] == [100, 4, 100]
    assert [one.version for one in read.values()] == ["1.2", "1.3-images", "1.2"]
    assert [one.wait_linger for one in read.values()] == [2, 5, 2]
    assert {one.lease for one in read.values()} == {60}
    assert workers["worker-a-b"]["THREADS"] == "4"
    assert {one["REGION"] for one in workers.values()} == {"eu"}


def test_the_values_say_only_settings_that_there_are():
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    named = set(re.findall(r"HEADRACE_[A-Z_]+", text)) - {"HEADRACE_API_KEY"}
    assert len(named) > 10
    assert {one for one in named if one.removeprefix(PREFIX).lower() not in Settings.__dataclass_fields__} == set()


def test_every_metric_that_is_asked_for_is_one_that_headrace_has(full):
    known = {sample.name for family in metrics.REGISTRY.collect() for sample in family.samples}
    known |= {family.name for family in metrics.REGISTRY.collect()}
    text = "".join(path.read_text(encoding="utf-8") for path in CHART.rglob("*.yaml"))
    asked = {one for one in re.findall(r"\bheadrace_[a-z_]+\b", text) if one not in {"headrace_key", "headrace_queue_"}}
    assert asked == {"headrace_queue_depth", "headrace_executing_runs"}
    assert asked - known == set()
    [scaled] = of_kind(full, "ScaledObject").values()
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert set(LABEL.findall(query)) == {"namespace", "pod", *metrics._queue_depth._labelnames}


def test_every_command_is_one_of_headrace(full):
    for name, pod in list_pods(full).items():
        [container] = pod["spec"]["containers"]
        assert "command" not in container, name  # the image's entry point is headrace itself: signals reach it
        command, bound, *_ = app.parse_args(container["args"], exit_on_error=False, print_error=False)
        assert command.__name__ == container["args"][0]
        if name == "worker-a-b":
            assert bound.arguments["queues"] == "images,task/resize"
            assert bound.arguments["tasks"] == "shop.images"


def test_a_pod_has_longer_to_end_than_headrace_takes_to_drain(full):
    pods = list_pods(full)
    for name, pod in pods.items():
        if name == "migrate":
            continue
        [container] = pod["spec"]["containers"]
        sleeps = [
            int(one)
            for one in container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", 0])[1:]
        ]
        drain = Settings.from_environment(
            {"HEADRACE_DRAIN_TIMEOUT": list_environment(pod)["HEADRACE_DRAIN_TIMEOUT"] or ""}
        ).drain_timeout
        assert pod["spec"]["terminationGracePeriodSeconds"] >= sum(sleeps) + drain + 10, name
    assert (
        pods["worker-a-b"]["spec"]["terminationGracePeriodSeconds"]
        > 600
        > pods["worker-a"]["spec"]["terminationGracePeriodSeconds"]
    )


def test_probes_ask_what_the_server_answers_without_a_key(full):
    open_paths = {route.path for route in build_health_routes(None)}  # pyright: ignore[reportArgumentType] - only asked for its paths
    [server] = [pod["spec"]["containers"][0] for name, pod in list_pods(full).items() if name == "server"]
    assert server["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert server["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert open_paths == {"/readyz", "/healthz"}
    assert server["readinessProbe"]["timeoutSeconds"] > 2  # that long the server waits for the database


def test_ports_that_are_named_are_ports_that_are_listened_on(full):
    for name, pod in list_pods(full).items():
        [container] = pod["spec"]["containers"]
        ports = {one["name"]: one["containerPort"] for one in container.get("ports", [])}
        probes = [
            container[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe") if probe in container
        ]
        assert set(probes) <= set(ports), name
        environment = list_environment(pod)
        wanted = {"http": environment.get("HEADRACE_PORT"), "metrics": environment.get("HEADRACE_METRICS_PORT")}
        assert {key: str(value) for key, value in ports.items()} == {
            key: value for key, value in wanted.items() if value
        }
        assert environment["HEADRACE_HOST"] == "0.0.0.0"
    [service] = of_kind(full, "Service").values()
    assert service["spec"]["ports"][0]["targetPort"] == "http"


def test_selectors_find_their_own_pods_and_no_others(full):
    labels = {name: pod["metadata"]["labels"] for name, pod in list_pods(full).items()}

    def found(selector: dict[str, Any]) -> set[str]:
        return {name for name, own in labels.items() if matches(selector, own)}

    for name, deployment in of_kind(full, "Deployment").items():
        assert found(deployment["spec"]["selector"]) == {name}
    for name, budget in of_kind(full, "PodDisruptionBudget").items():
        assert found(budget["spec"]["selector"]) == {name}
    workers = {name for name in labels if name.startswith("worker-")}
    [pod_monitor] = of_kind(full, "PodMonitor").values()
    assert found(pod_monitor["spec"]["selector"]) == workers
    [service] = [one for one in full if one["kind"] == "Service"]
    assert found({"matchLabels": service["spec"]["selector"]}) == {"server"}
    [service_monitor] = of_kind(full, "ServiceMonitor").values()
    assert matches(service_monitor["spec"]["selector"], service["metadata"]["labels"])


def test_a_group_that_scales_has_no_fixed_number_and_is_measured_by_its_own(full):
    deployments = of_kind(full, "Deployment")
    assert {name for name, one in deployments.items() if "replicas" in one["spec"]} == {"server", "worker-a"}
    [scaled] = of_kind(full, "ScaledObject").values()
    assert scaled["spec"]["scaleTargetRef"]["name"] == "demo-headrace-worker-a-b"
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (1, 50)
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["metadata"]["threshold"] == "4"
    query = trigger["metadata"]["query"]
    assert 'queue=~"images|task/resize"' in query
    assert 'environment="prod"' in query
    [pattern] = re.findall(r'pod=~"([^"]+)"', query)
    assert re.fullmatch(pattern, "demo-headrace-worker-a-b-5d9c7b8f6d-x2x4z")
    assert not re.fullmatch(pattern, "demo-headrace-worker-a-b-c-5d9c7b8f6d-x2x4z")
    [by_hpa] = of_kind(full, "HorizontalPodAutoscaler").values()
    assert by_hpa["spec"]["scaleTargetRef"]["name"] == "demo-headrace-worker-c"
    external = by_hpa["spec"]["metrics"][0]["external"]
    assert external["target"]["averageValue"] == "7"
    assert external["metric"]["selector"]["matchLabels"] == {"environment": "staging"}


def test_the_migration_comes_first_and_needs_nothing_of_the_chart(full):
    [job] = of_kind(full, "Job").values()
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert "serviceAccountName" not in job["spec"]["template"]["spec"]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert of_kind(render({**LEAST, "migration": {"enabled": False}}), "Job") == {}


def test_pods_run_as_nobody_and_write_nowhere(full):
    for name, pod in list_pods(full).items():
        [container] = pod["spec"]["containers"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        [mount] = container["volumeMounts"]
        assert str(list_environment(pod)["HEADRACE_DATA_DIR"]).startswith(mount["mountPath"])


def test_no_url_of_a_database_can_be_given_as_a_value(full):
    for pod in list_pods(full).values():
        [container] = pod["spec"]["containers"]
        secret = {one["name"] for one in container["env"] if "valueFrom" in one}
        assert secret == {"HEADRACE_DATABASE_URL", "HEADRACE_STORES", "HEADRACE_LISTEN_URL", "HEADRACE_STORES_LISTEN"}
        needed = [
            one["name"]
            for one in container["env"]
            if "valueFrom" in one and not one["valueFrom"]["secretKeyRef"].get("optional")
        ]
        assert needed == ["HEADRACE_DATABASE_URL"]


def test_the_values_of_the_docs_are_rendered():
    [text] = re.findall(r"^```yaml\n(.*?)^```$", SCALE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    values = yaml.safe_load(text)
    assert set(of_kind(render(values), "Deployment")) == {"server", "worker-default", "worker-images"}
    assert set(of_kind(render(values), "ScaledObject")) == {"worker-images"}


def test_every_value_is_used_and_every_value_that_is_used_is_there():
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    templates = "".join(path.read_text(encoding="utf-8") for path in (CHART / "templates").iterdir())
    used = {tuple(path.split(".")) for path in re.findall(r"\.Values\.([\w.]+)", templates)}
    for path in used:
        inner = values
        for name in path:
            assert name in inner, path
            inner = inner[name]
    known = {*used, *_of_parts(templates)}
    unused = [path for path in _list_paths(values) if not any(path[: len(one)] == one for one in known)]
    assert unused == []


def test_every_value_is_in_the_schema():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert set(values) == set(schema["properties"]) - {"global"}
    assert set(values["workerDefaults"]) == set(schema["properties"]["workerDefaults"]["properties"])


def test_the_image_is_built_of_files_that_there_are_and_runs_as_nobody():
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    assert {"src", "pyproject.toml"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    included = re.findall(r'^"([\w/]+)" = ', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for name in included if name.startswith("examples/")} <= set(copied)
    assert "USER 10001:10001" in lines
    assert 'ENTRYPOINT ["headrace"]' in lines


def _of_parts(templates: str) -> Iterator[tuple[str, ...]]:
    """Values that templates reach by another name."""
    yield from (("workerDefaults", name) for name in re.findall(r"\$group\.(\w+)", templates))
    yield from (("workerDefaults", "autoscaling", name) for name in re.findall(r"\$scaling\.(\w+)", templates))
    yield from (("metrics", "serviceMonitor", name) for name in re.findall(r"\$monitor\.(\w+)", templates))
    for name in re.findall(r"with \.(\w+)", templates):
        yield from ((part, name) for part in ("server", "workerDefaults"))


def _list_paths(values: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and (*above, name) not in {("podSecurityContext",), ("securityContext",)}:
            yield from _list_paths(value, (*above, name))
        else:
            yield (*above, name)
