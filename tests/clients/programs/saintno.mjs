// @saintno/comfyui-sdk: its API, a job with a typed prompt, a pool, and its command line.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { CallWrapper, ComfyApi, ComfyPool, EQueueMode, PromptBuilder } from "@saintno/comfyui-sdk";

const [host, file, results] = process.argv.slice(2);
const workflow = JSON.parse(readFileSync(file));
const address = `http://${host}`;
const api = await new ComfyApi(address).init().waitForReady();

assert((await api.getCheckpoints()).includes("weft-tiny.safetensors"));
assert((await api.getSamplerInfo()).sampler[0].includes("euler"));
assert((await api.getNodeDefs("KSampler")).KSampler);
assert((await api.getSystemStats()).devices.length);
assert((await api.getModelTypes()).includes("checkpoints"));
assert(await api.getFeatures());
for (const ask of ["getLoras", "getEmbeddings", "getExtensions", "getModelFolders"])
  assert(Array.isArray(await api[ask]()), ask);
await api.storeSetting("Test.Size", 12);
assert.equal((await api.getSettings())["Test.Size"], 12);
await api.storeUserData("workflows/mine.json", workflow);
assert((await api.listUserData("workflows")).includes("mine.json"));
assert.deepEqual(await (await api.getUserData("workflows/mine.json")).json(), workflow);
await api.deleteUserData("workflows/mine.json");

function builder(seed) {
  return new PromptBuilder(workflow, ["seed"], ["images"])
    .setInputNode("seed", "3.inputs.seed")
    .setOutputNode("images", "9")
    .input("seed", seed);
}

async function keep(name, told) {
  assert.equal(told.images.images.length, 1);
  const picture = await api.getImage(told.images.images[0]);
  const bytes = Buffer.from(await picture.arrayBuffer());
  writeFileSync(`${results}/${name}.png`, bytes);
  return bytes;
}

async function done(api, seed, progress = () => {}) {
  let failure;
  const call = new CallWrapper(api, builder(seed)).onProgress(progress);
  const told = await call.onFailed((error) => (failure = error)).run();
  assert(told, `it failed: ${failure}`);
  return told;
}

const progress = [];
const told = await done(api, 5, (step) => progress.push(step));
const bytes = await keep("by_wrapper", told);
assert(progress.length);

const uploaded = await api.uploadImage(bytes, "theirs.png", { subfolder: "given" });
assert.equal(uploaded.info.subfolder, "given");
assert.deepEqual(Buffer.from(await (await fetch(uploaded.url)).arrayBuffer()), bytes);

const pool = new ComfyPool([new ComfyApi(address)], EQueueMode.PICK_ZERO);
await keep("by_pool", await pool.run((api) => done(api, 6)));

const cli = ["node_modules/@saintno/comfyui-sdk/dist/cli.js"];
const given = ["-H", address, "-f", file, "-i", "3.inputs.seed=7", "--json", "-d", "-o", results];
const answer = JSON.parse(execFileSync("node", [...cli, ...given], { encoding: "utf8" }));
assert.equal(answer.status, "completed");
execFileSync("node", [...cli, "codegen", "-H", address, "-o", "nodes.ts"]);
assert(readFileSync("nodes.ts", "utf8").includes("CheckpointLoaderSimple"));
process.exit(0); // its sockets would otherwise keep the program alive
