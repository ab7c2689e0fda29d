// Reads a token on standard input and prints what grpc-reflection-js knows of the bus: services, and the fields of one message.
const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const { Client } = require("grpc-reflection-js");

async function main([target, ca, symbol, message]) {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", fs.readFileSync(0, "utf-8").trim());
  const client = new Client(target, grpc.credentials.createSsl(fs.readFileSync(ca)), {}, metadata);
  const services = await client.listServices();
  const root = await client.fileContainingSymbol(symbol);
  const fields = Object.keys(root.lookupType(message).fields);
  console.log(JSON.stringify({ services, fields }));
  client.grpcClient.close();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(String(error));
  process.exit(1);
});
