// What a TypeScript program does with the published SDK, against headrace. Prints one JSON object.
import { batch, configure, runs, tasks } from "@trigger.dev/sdk";

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

console.log(
  JSON.stringify({
    run: [run.status, run.output, run.isSuccess, run.tags],
    batch: [many.runCount, typeof many.publicAccessToken, whole.status, whole.runs.length, last.output],
    stream: [streamed.status, streamed.runs.length, fourth.output],
    failed: [failed.status, failed.isFailed, failed.error.name, failed.error.message],
    key: [again.id === keyed.id, again.isCached],
    list: [page.data.map((found) => found.id === handle.id), counted],
    missing,
  }),
);
