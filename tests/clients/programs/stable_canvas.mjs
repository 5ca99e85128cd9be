// @stable-canvas/comfyui-client: a job over a websocket, one by asking, one from its pipeline.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { BasePipe, Client } from "@stable-canvas/comfyui-client";
import WebSocket from "ws";

const [host, file, results] = process.argv.slice(2);
const workflow = JSON.parse(readFileSync(file));
const client = new Client({ api_host: host, WebSocket, fetch });
client.connect();

assert((await client.getSystemStats()).devices.length);
assert((await client.getSDModels()).includes("weft-tiny.safetensors"));
assert((await client.getSamplers()).includes("euler"));
assert((await client.getSchedulers()).includes("karras"));
assert.deepEqual(await client.getEmbeddings(), []);
for (const list of ["getLoRAs", "getVAEs", "getCNetModels", "getUpscaleModels"])
  assert(Array.isArray(await client[list]()), list);

async function keep(name, { images }) {
  assert.equal(images.length, 1);
  const [image] = images;
  const isAddress = image.type === "url"; // of a file; otherwise it is the picture
  const bytes = isAddress ? await (await fetch(image.data)).arrayBuffer() : image.data;
  writeFileSync(`${results}/${name}.png`, Buffer.from(bytes));
}

const progress = [];
const told = await client.enqueue(workflow, { progress: (step) => progress.push(step) });
await keep("by_websocket", told);
assert.equal(progress.at(-1).value, progress.at(-1).max);
assert((await client.getHistory()).History.length);

workflow["3"].inputs.seed += 1;
await keep("by_asking", await client.enqueue_polling(workflow));

const pipe = new BasePipe().with(client).model("weft-tiny.safetensors");
pipe.prompt("a green square").size(128, 128).steps(4).cfg(4).sampler("dpmpp_2m").save("by_pipe");
await keep("by_pipe", await pipe.wait());
client.close();
