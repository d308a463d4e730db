// graphile-worker: its local queue of 500, completions gathered for one tick; one Node process.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const { spawn } = require("node:child_process");
const { createRequire } = require("node:module");
// The package stands in an environment of its own, not beside this file.
const load = createRequire(path.join(process.env.BENCH_NODE, "index.js"));
const { Logger, makeWorkerUtils, run, runMigrations } = load("graphile-worker");

const connectionString = process.env.BENCH_DSN;
const WARM_UP = 20;
const FIRST = 3;
const logger = new Logger(() => () => {});
const now = () => Math.round((performance.timeOrigin + performance.now()) * 1000);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const seconds = (since) => (performance.now() - since) / 1000;

let file;
function record(sent) {
  const bytes = Buffer.alloc(16);
  bytes.writeBigInt64LE(BigInt(sent), 0);
  bytes.writeBigInt64LE(BigInt(now()), 8);
  file ??= fs.openSync(path.join(process.env.PROBE_DIR, `${process.pid}.records`), "a");
  fs.writeSync(file, bytes);
}

async function withClient(measure) {
  const client = await makeWorkerUtils({ connectionString, logger });
  const answer = await measure((sent) => client.addJob("noop", { sent }), client);
  console.log(JSON.stringify(answer));
  await client.release();
}

const commands = {
  setup: () => runMigrations({ connectionString, logger }),
  one: (jobs) =>
    withClient(async (send) => {
      for (let n = 0; n < WARM_UP; n++) await send(0);
      const begun = performance.now();
      for (let n = 0; n < jobs; n++) await send(0);
      return { jobs: jobs + WARM_UP, per_s: jobs / seconds(begun) };
    }),
  many: (jobs, size) =>
    withClient(async (_, client) => {
      const batch = Array.from({ length: size }, () => ({ identifier: "noop", payload: { sent: 0 } }));
      const batches = Math.max(1, Math.round(jobs / size));
      await client.addJobs(batch);
      const begun = performance.now();
      for (let n = 0; n < batches; n++) await client.addJobs(batch);
      return { jobs: (batches + 1) * size, per_s: (batches * size) / seconds(begun) };
    }),
  rate: (perSecond, duration) =>
    withClient(async (send) => {
      for (let n = 0; n < FIRST; n++) {
        await send(0);
        await pause(50);
      }
      const begun = performance.now();
      let sent = 0;
      while (sent < perSecond * duration && seconds(begun) < duration * 1.05) {
        const early = begun + (sent * 1000) / perSecond - performance.now();
        if (early > 0) await pause(early);
        await send(now());
        sent++;
      }
      const spent = seconds(begun);
      return { jobs: sent + FIRST, sent, seconds: spent, per_s: sent / spent };
    }),
  serve: async (processes, concurrency) => {
    const started = Array.from({ length: processes }, () =>
      spawn(process.execPath, [__filename, "work", String(concurrency)], { stdio: "inherit" }),
    );
    process.on("SIGTERM", () => started.forEach((each) => each.kill("SIGTERM")));
    await Promise.all(started.map((each) => new Promise((resolve) => each.on("exit", resolve))));
  },
  work: async (concurrentJobs) => {
    const preset = {
      worker: {
        connectionString,
        concurrentJobs,
        maxPoolSize: concurrentJobs + 1,
        localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    };
    const runner = await run({ preset, logger, taskList: { noop: async ({ sent }) => record(sent) } });
    await runner.promise;
  },
};

const [command, ...numbers] = process.argv.slice(2);
commands[command](...numbers.map(Number)).then(
  () => command === "work" || process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
