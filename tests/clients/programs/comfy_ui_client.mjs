// comfy-ui-client: connect, wait for pictures, save them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { ComfyUIClient } from "comfy-ui-client";

const [host, file, results] = process.argv.slice(2);
const workflow = JSON.parse(readFileSync(file));
const client = new ComfyUIClient(host, "baadbabe-b00b-4206-9420-deadd00d1337");
await client.connect();

assert((await client.getObjectInfo("KSampler")).KSampler);
assert((await client.getSystemStats()).devices.length);
assert.deepEqual(await client.getEmbeddings(), []);
assert(await client.getPrompt());

const images = await client.getImages(workflow);
await client.saveImages(images, results);
assert((await client.getQueue()).queue_running);

const picture = Buffer.from(await images["9"][0].blob.arrayBuffer());
const uploaded = await client.uploadImage(picture, "theirs.png", true);
assert.equal(uploaded.name, "theirs.png");
await client.disconnect();
