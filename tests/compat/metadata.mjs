// Metadata and tags by the published SDK's own client, against headrace. Prints one JSON object.
import { configure, runs, tasks } from "@trigger.dev/sdk";
import { apiClientManager } from "@trigger.dev/core/v3";

configure({ baseURL: process.env.HEADRACE_API_URL, accessToken: process.env.HEADRACE_API_KEY });

const fault = async (call) => {
  try {
    await call();
  } catch (error) {
    return [error.constructor.name, error.status];
  }
};

const client = apiClientManager.clientOrThrow();
const { id } = await tasks.trigger("t", 1, { metadata: { n: 1, log: ["a"] }, tags: "first" });
const before = await client.getRunMetadata(id);
const changed = await client.updateRunMetadata(id, {
  operations: [
    { type: "increment", key: "n", value: 2 },
    { type: "append", key: "log", value: "b" },
    { type: "set", key: "$.stage.name", value: "x" },
  ],
  parentOperations: [{ type: "set", key: "own parent", value: true }],
  rootOperations: [],
});
const refused = await fault(() => client.updateRunMetadata(id, { operations: [{ type: "increment", key: "log", value: 1 }] }));
const whole = await client.updateRunMetadata(id, { metadata: { all: "new" } });
const tagged = await client.addTags(id, { tags: ["second", "first"] });
const many = await fault(() => client.addTags(id, { tags: Array.from({ length: 10 }, (_, i) => `t${i}`) }));
const run = await runs.retrieve(id);
const found = await runs.list({ tag: ["second", "none"] });
console.log(
  JSON.stringify({
    before: before.metadata,
    changed: changed.metadata,
    refused,
    whole: whole.metadata,
    tagged: tagged.message,
    many,
    run: [run.metadata, run.tags],
    found: found.data.map((one) => one.id === id),
    missing: await fault(() => client.getRunMetadata("run_nonesuch")),
  }),
);
