// Schedules by the published SDK, against headrace. Prints one JSON object.
import { configure, schedules } from "@trigger.dev/sdk";

configure({ baseURL: process.env.HEADRACE_API_URL, accessToken: process.env.HEADRACE_API_KEY });

const fault = async (call) => {
  try {
    await call();
  } catch (error) {
    return [error.constructor.name, error.status];
  }
};

const given = { task: "report", cron: "30 2 * * *", deduplicationKey: "nightly", timezone: "Europe/Berlin", externalId: "mine" };
const made = await schedules.create(given);
const again = await schedules.create({ ...given, cron: "0 9 * * 1-5" });
const shown = await schedules.retrieve(made.id);
const changed = await schedules.update(made.id, { task: "report", cron: "0 0 1 1 *" });
const off = await schedules.deactivate(made.id);
const on = await schedules.activate(made.id);
for (let i = 0; i < 4; i++) await schedules.create({ ...given, deduplicationKey: `${i}` });
const page = await schedules.list({ page: 1, perPage: 2 });
let counted = 0;
for await (const _ of page) counted++;
const zones = await schedules.timezones();
const without = await schedules.timezones({ excludeUtc: true });
const wrong = await fault(() => schedules.create({ ...given, cron: "61 * * * *" }));
const gone = await schedules.del(made.id);
const missing = await fault(() => schedules.retrieve(made.id));

console.log(
  JSON.stringify({
    made: [made.type, made.task, made.active, made.generator.description, made.nextRun instanceof Date, made.environments[0].type],
    again: [again.id === made.id, again.generator.expression],
    shown: [shown.externalId, shown.deduplicationKey, shown.timezone],
    changed: [changed.generator.expression, changed.nextRun.getUTCDate()],
    switched: [off.active, off.nextRun, on.active],
    list: [page.data.length, page.pagination, counted],
    zones: [zones.timezones[0], zones.timezones.length - without.timezones.length],
    wrong,
    gone: gone.id === made.id,
    missing,
  })
);
