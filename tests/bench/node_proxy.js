// The Node proxy to compare with: http on both sides, jsonata-js where something is to be changed.
//
// Run as `node node_proxy.js PORT UPSTREAM OBSERVATION.jsonata EVENT.jsonata`. Pipelines whose
// names end in "-changed" are transformed; they are asked of the upstream without that ending.
"use strict";

const fs = require("fs");
const http = require("http");
const jsonata = require("jsonata");

const [port, upstream] = process.argv.slice(2, 4).map(Number);
const [observation, event] = process.argv.slice(4).map((path) => jsonata(fs.readFileSync(path, "utf8")));
const agent = new http.Agent({ keepAlive: true });

async function changeEvents(from, to) {
  let held = "";
  for await (const piece of from) {
    const frames = (held + piece).split("\n\n");
    held = frames.pop();
    let out = "";
    for (const frame of frames) {
      const changed = await event.evaluate(JSON.parse(frame.slice(6)));
      out += `data: ${JSON.stringify(changed)}\n\n`;
    }
    if (out) to.write(out);
  }
  to.end();
}

async function changeObservation(from, to) {
  let text = "";
  for await (const piece of from) text += piece;
  const answer = JSON.parse(text);
  answer.observation = await observation.evaluate(answer.observation);
  const body = Buffer.from(JSON.stringify(answer));
  to.writeHead(200, { "Content-Type": "application/json", "Content-Length": body.length });
  to.end(body);
}

const server = http.createServer((request, response) => {
  const changed = request.url.includes("-changed/");
  const options = {
    agent,
    host: "127.0.0.1",
    port: upstream,
    method: request.method,
    path: request.url.replace("-changed/", "/"),
    headers: request.headers,
  };
  const call = http.request(options, (answer) => {
    const streamed = answer.headers["content-type"] === "text/event-stream";
    if (changed && !streamed) {
      answer.setEncoding("utf8");
      changeObservation(answer, response).catch(() => response.destroy());
      return;
    }
    response.writeHead(answer.statusCode, answer.headers);
    if (changed) {
      answer.setEncoding("utf8");
      changeEvents(answer, response).catch(() => response.destroy());
    } else {
      answer.pipe(response);
    }
  });
  call.on("error", () => response.destroy());
  response.on("close", () => call.destroy());
  request.pipe(call);
});
server.listen(port, "127.0.0.1", 4096);
