// A bundle's purifier and classifier in the browser, by ONNX Runtime Web: the numbers of `purify_edge.Pipeline`.
import * as ort from "./ort.wasm.bundle.min.mjs";

const here = path => new URL(path, import.meta.url).href;
ort.env.wasm.numThreads = 1; // more would need headers that a plain file server does not send
ort.env.wasm.wasmPaths = { wasm: here("ort-wasm-simd-threaded.wasm") };

const MAX_PIXELS = 2 ** 24; // a larger canvas stays empty on some phones
const SHARES = 2 ** 22; // Pillow's fixed point

/** Read the JSON file of the site. */
export async function read(path) {
  const answer = await fetch(here(path));
  if (!answer.ok) throw new Error(`${path} is not there (${answer.status}); build the site again with make docs`);
  return answer.json();
}

/** Open the bundle beside this file. */
export async function open() {
  const manifest = await read("bundle/manifest.json");
  const { resize, scaled, interpolation, antialias } = manifest.input.preprocessing;
  if (resize !== "stretch" || scaled || interpolation !== "bilinear" || !antialias || !manifest.suspicion) {
    throw new Error("expected a bundle that stretches pictures, bilinear, and has a suspicion score");
  }
  const session = role => {
    const { file } = manifest.models.find(model => model.role === role && model.precision === "fp32");
    return ort.InferenceSession.create(here(`bundle/${file.path}`));
  };
  return { manifest, purifier: await session("purifier"), classifier: await session("classifier") };
}

/** Purify and classify bytes `[H, W, C]`: probabilities `before` and `after`, suspicion, pixels `[H, W, C]` in [0, 1]. */
export async function predict({ manifest, purifier, classifier }, bytes) {
  const { channels, height, width } = manifest.input;
  const area = height * width, size = channels * area;
  const image = new Float32Array(size).map((_, i) => bytes[(i % area) * channels + Math.floor(i / area)] / 255);
  const start = performance.now();
  const purified = await run(purifier, image, [1, channels, height, width]);
  const both = new Float32Array(2 * size);
  both.set(image);
  both.set(purified, size);
  const logits = await run(classifier, both, [2, channels, height, width]);
  const time = performance.now() - start;
  const classes = logits.length / 2;
  const [alone, behind] = [logits.slice(0, classes), logits.slice(classes)];
  const { score, threshold } = manifest.suspicion;
  const suspicion = suspicionOf(alone, behind, score);
  const pixels = part => Array.from(part, (_, i) => part[(i % channels) * area + Math.floor(i / channels)]);
  return {
    before: softmax(alone), after: softmax(behind), suspicion, suspicious: !(suspicion <= threshold), time,
    image: pixels(image), purified: pixels(purified),
  };
}

async function run(session, values, shape) {
  const given = { [session.inputNames[0]]: new ort.Tensor("float32", values, shape) };
  return (await session.run(given))[session.outputNames[0]].data;
}

function softmax(logits) {
  const highest = Math.max(...logits);
  const powers = Array.from(logits, value => Math.exp(value - highest));
  const sum = powers.reduce((one, other) => one + other);
  return powers.map(power => power / sum);
}

/** As `purify_edge.pipeline.suspicion.suspicion_of`. */
function suspicionOf(alone, behind, score) {
  const changes = Array.from(alone, (value, i) => value - behind[i]);
  const mean = changes.reduce((one, other) => one + other) / changes.length;
  const deviation = Math.sqrt(changes.reduce((sum, value) => sum + (value - mean) ** 2, 0) / changes.length);
  const [first, second] = Array.from(alone).sort((one, other) => other - one);
  return deviation * (score === "confident-change" ? first - second : 1);
}

/** Decode a picture and fit it to the bundle's input, bytes `[H, W, C]`, as `purify-run` does. */
export async function fitted(file, { channels, height, width }) {
  const name = file.name ?? "the picture";
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${name} cannot be read as a picture; expected a PNG, JPEG, WebP, GIF or BMP that is not damaged`);
  }
  if (bitmap.width * bitmap.height > MAX_PIXELS) {
    throw new Error(`${name} has ${bitmap.width} x ${bitmap.height} pixels, more than 16 million; scale it down`);
  }
  const pen = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  pen.fillRect(0, 0, bitmap.width, bitmap.height); // black below what is transparent
  pen.drawImage(bitmap, 0, 0);
  const { data } = pen.getImageData(0, 0, bitmap.width, bitmap.height);
  const grey = i => (19595 * data[i] + 38470 * data[i + 1] + 7471 * data[i + 2] + 0x8000) >> 16;
  const value = channels === 1 ? i => grey(4 * i) : i => data[4 * Math.floor(i / 3) + (i % 3)];
  const bytes = new Uint8Array(bitmap.width * bitmap.height * channels).map((_, i) => value(i));
  const { width: wide, height: high } = bitmap;
  if (high > height && high - height > 2 * (wide - width)) { // Pillow's order
    const low = resampled(bytes, 1, wide * channels, high, height);
    return resampled(low, height, channels, wide, width);
  }
  const narrow = resampled(bytes, high, channels, wide, width);
  return resampled(narrow, 1, width * channels, high, height);
}

/** Scale one side of an array of bytes, `rows` of `[side, step]`, bilinear and antialiased: in Pillow's integers. */
function resampled(bytes, rows, step, from, to) {
  if (from === to) return bytes;
  const result = new Uint8Array(rows * to * step);
  const scale = from / to, reach = Math.max(scale, 1);
  for (let place = 0; place < to; place++) {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(from, Math.trunc(centre + reach + 0.5));
    const shares = Array.from({ length: last - first }, (_, i) =>
      Math.max(0, 1 - Math.abs((i + first - centre + 0.5) / reach)));
    const sum = shares.reduce((one, other) => one + other);
    const fixed = shares.map(share => Math.trunc(0.5 + (share / sum) * SHARES));
    for (let row = 0; row < rows; row++) {
      for (let part = 0; part < step; part++) {
        let total = SHARES / 2;
        for (let i = 0; i < fixed.length; i++) total += fixed[i] * bytes[(row * from + first + i) * step + part];
        result[(row * to + place) * step + part] = Math.min(255, Math.floor(total / SHARES));
      }
    }
  }
  return result;
}
