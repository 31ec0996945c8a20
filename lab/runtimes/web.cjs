// Run a graph by ONNX Runtime Web: facts as JSON, a file of float32 images, a file for the answers.
const fs = require("fs");
const { createRequire } = require("module");
const ort = createRequire(process.cwd() + "/")("onnxruntime-web");

async function main() {
  const [facts, given, got] = process.argv.slice(1);
  const { graph, output, shape, batch } = JSON.parse(facts);
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(fs.readFileSync(graph));
  const bytes = fs.readFileSync(given);
  const pixels = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const one = shape.slice(1).reduce((product, side) => product * side);
  fs.writeFileSync(got, "");
  for (let start = 0; start < shape[0]; start += batch) {
    const count = Math.min(batch, shape[0] - start);
    const part = pixels.slice(start * one, (start + count) * one);
    const images = new ort.Tensor("float32", part, [count, ...shape.slice(1)]);
    const { data } = (await session.run({ images }, [output]))[output];
    fs.appendFileSync(got, Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  }
}

main().catch((error) => {
  console.error(String(error));
  process.exit(1);
});
