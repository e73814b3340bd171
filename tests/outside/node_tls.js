// Node's gRPC client over TLS: ADDRESS MODEL CA [CERTIFICATE KEY]. Prints JSON.
//
// Sends one zero per element to the model's first input, of FP32 or UINT8. CNN_TOKEN, if set, is the bearer token.
// Needs @grpc/grpc-js and @grpc/proto-loader, which NODE_PATH may lead to.
"use strict";
const fs = require("fs");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, model, authority, certificate, key] = process.argv.slice(2);
const read = (file) => (file ? fs.readFileSync(file) : null);
const credentials = grpc.credentials.createSsl(read(authority), read(key), read(certificate));
const metadata = new grpc.Metadata();
if (process.env.CNN_TOKEN) metadata.set("authorization", `Bearer ${process.env.CNN_TOKEN}`);

function client(file, ...names) {
  const folder = path.join(__dirname, "..", "..", "proto");
  const options = { keepCase: true, longs: Number, enums: String, defaults: true, includeDirs: [folder] };
  const loaded = grpc.loadPackageDefinition(loader.loadSync(path.join(folder, file), options));
  const Service = names.reduce((found, name) => found[name], loaded);
  return new Service(address, credentials);
}

const call = (stub, method, request) =>
  new Promise((resolve, reject) => {
    const deadline = Date.now() + 10000;
    stub[method](request, metadata, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });

async function main() {
  const health = client("health.proto", "grpc", "health", "v1", "Health");
  const inference = client("inference.proto", "inference", "GRPCInferenceService");
  const { status } = await call(health, "Check", {});
  const { inputs } = await call(inference, "ModelMetadata", { name: model });
  const { name, datatype, shape: sizes } = inputs[0];
  const shape = sizes.map((size) => Math.max(size, 1));
  const elements = shape.reduce((product, size) => product * size, 1);
  const raw = Buffer.alloc(elements * (datatype === "FP32" ? 4 : 1));
  const request = { model_name: model, inputs: [{ name, datatype, shape }], raw_input_contents: [raw] };
  const answer = await call(inference, "ModelInfer", request);
  console.log(JSON.stringify({ status, shapes: answer.outputs.map((output) => output.shape) }));
  health.close();
  inference.close();
}

main().catch((error) => {
  console.error(String(error));
  process.exit(1);
});
