// What a TypeScript program does with the published SDK, against headrace. Prints one JSON object.
import { auth, batch, configure, runs, tasks, wait } from "@trigger.dev/sdk";

configure({ baseURL: process.env.HEADRACE_API_URL, accessToken: process.env.HEADRACE_API_KEY });

const until = async (ask, done) => {
  for (let look = 0; look < 400; look++) {
    const answer = await ask();
    if (done(answer)) return answer;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error("waited too long");
};
const ended = (id) => until(() => batch.retrieve(id), (answer) => answer.status !== "PENDING" && answer.status !== "PROCESSING");

const handle = await tasks.trigger("echo", { a: 1 }, { tags: ["from-ts"] });
const run = await until(() => runs.retrieve(handle.id), (answer) => answer.isCompleted);

const many = await tasks.batchTrigger("echo", Array.from({ length: 250 }, (_, i) => ({ payload: { i }, options: { tags: ["b"] } })));
const whole = await ended(many.batchId);
const last = await runs.retrieve(whole.runs[249]);

async function* produce() {
  for (let i = 0; i < 20; i++) yield { payload: `text ${i}` };
}
const streamed = await ended((await tasks.batchTrigger("echo", produce())).batchId);
const fourth = await runs.retrieve(streamed.runs[3]);

const failing = await tasks.trigger("fail", null);
const failed = await until(() => runs.retrieve(failing.id), (answer) => answer.isCompleted);

const keyed = await tasks.trigger("echo", 1, { idempotencyKey: "once" });
const again = await tasks.trigger("echo", 1, { idempotencyKey: "once" });

const page = await runs.list({ limit: 3, tag: "from-ts" });
let counted = 0;
for await (const _ of runs.list({ limit: 50 })) counted++;

let missing;
try {
  await runs.retrieve("run_none");
} catch (error) {
  missing = `${error.constructor.name} ${error.status}`;
}

const token = await wait.createToken({ timeout: "1h", tags: ["approval", "ts"], idempotencyKey: "token-once", idempotencyKeyTTL: "1d" });
const sameToken = await wait.createToken({ idempotencyKey: "token-once" });
const waitingToken = await wait.retrieveToken(token);
await wait.completeToken(token, { status: "approved", at: [1, 2] });
await wait.completeToken(token.id, { status: "rejected" });
const completedToken = await wait.retrieveToken(token.id);

const calledToken = await wait.createToken({ tags: "callback" });
const called = await fetch(calledToken.url, { method: "POST", headers: { "content-type": "application/json" }, body: '{"by":"webhook"}' });
const calledBack = await wait.retrieveToken(calledToken.id);

const browserToken = await wait.createToken();
await auth.withAuth({ baseURL: process.env.HEADRACE_API_URL, accessToken: browserToken.publicAccessToken }, () => wait.completeToken(browserToken.id));
const browserDone = await wait.retrieveToken(browserToken.id);

const lateToken = await wait.createToken({ timeout: new Date(Date.now() - 1000) });
const timedOut = await until(() => wait.retrieveToken(lateToken.id), (answer) => answer.status === "TIMED_OUT");

const tokenPage = await wait.listTokens({ limit: 2 });
let tokensCounted = 0;
for await (const _ of wait.listTokens({ limit: 2 })) tokensCounted++;
const found = async (filter) => (await wait.listTokens(filter)).data.map((item) => item.id);
const filtered = {
  status: await found({ status: ["TIMED_OUT"] }),
  tags: await found({ tags: ["ts", "none"], status: "COMPLETED", period: "1h" }),
  key: await found({ idempotencyKey: "token-once", from: new Date(Date.now() - 3_600_000), to: new Date(Date.now() + 3_600_000) }),
  before: await found({ to: new Date(0) }),
};
let missingToken;
try {
  await wait.completeToken("waitpoint_none", 1);
} catch (error) {
  missingToken = `${error.constructor.name} ${error.status}`;
}

console.log(
  JSON.stringify({
    token: [waitingToken.status, waitingToken.tags, waitingToken.timeoutAt > waitingToken.createdAt, waitingToken.idempotencyKeyExpiresAt > waitingToken.timeoutAt],
    tokenUrl: [token.url === waitingToken.url, token.url.startsWith(process.env.HEADRACE_API_URL)],
    tokenKey: [sameToken.id === token.id, sameToken.isCached, token.isCached, waitingToken.idempotencyKey],
    completed: [completedToken.status, completedToken.output, completedToken.error ?? null, completedToken.completedAt >= completedToken.createdAt],
    callback: [called.status, calledBack.status, calledBack.output],
    publicToken: [browserDone.status, browserDone.output ?? null],
    timedOut: [timedOut.error.constructor.name, timedOut.error.message.startsWith("Waitpoint timed out at "), timedOut.output ?? null],
    tokens: [tokenPage.data.length, tokensCounted, tokenPage.data[0].createdAt instanceof Date],
    filtered: [filtered.status.length === 1 && filtered.status[0] === lateToken.id, filtered.tags.length === 1 && filtered.tags[0] === token.id, filtered.key[0] === token.id, filtered.before.length],
    missingToken,
    run: [run.status, run.output, run.isSuccess, run.tags],
    batch: [many.runCount, typeof many.publicAccessToken, whole.status, whole.runs.length, last.output],
    stream: [streamed.status, streamed.runs.length, fourth.output],
    failed: [failed.status, failed.isFailed, failed.error.name, failed.error.message],
    key: [again.id === keyed.id, again.isCached],
    list: [page.data.map((found) => found.id === handle.id), counted],
    missing,
  }),
);
