
"use strict";
// Shows openapi.json, and sends the calls in it. Everything from outside becomes text, never markup.

const base = location.pathname.replace(/\/docs\/?$/, "");
const $ = (id) => document.getElementById(id);
let doc;

function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child != null && child !== ""));
  return made;
}

function resolved(thing) {
  while (thing && thing.$ref) {
    thing = thing.$ref.slice(2).split("/").reduce((at, name) => at[name.replace(/~1/g, "/")], doc);
  }
  return thing || {};
}

// Text with `code`, **weight** and lists.

function words(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((piece) => {
    if (piece.startsWith("`")) return make("code", {}, piece.slice(1, -1));
    if (piece.startsWith("**")) return make("strong", {}, piece.slice(2, -2));
    return piece;
  });
}

function prose(text) {
  const parts = [];
  for (const block of (text || "").split(/\n\n+/).filter(Boolean)) {
    if (block.startsWith("- ")) {
      const items = block.slice(2).split(/\n- /);
      parts.push(make("ul", {}, items.map((item) => make("li", {}, words(item)))));
    } else parts.push(make("p", {}, words(block)));
  }
  return parts;
}

// Schemas

function kind(schema) {
  const parts = [];
  if (schema.const !== undefined) parts.push(JSON.stringify(schema.const));
  else if (schema.enum) parts.push(schema.enum.map((each) => JSON.stringify(each)).join(" | "));
  else if (schema.type) parts.push([].concat(schema.type).join(" or "));
  if (schema.contentEncoding) parts.push(schema.contentEncoding);
  if (schema.format) parts.push(schema.format);
  for (const [name, word] of [["minLength", "from"], ["maxLength", "up to"], ["minimum", "from"],
    ["maximum", "up to"], ["minItems", "from"], ["maxItems", "up to"]]) {
    if (schema[name] !== undefined) parts.push(`${word} ${schema[name]}`);
  }
  if (schema.default !== undefined) parts.push(`default ${JSON.stringify(schema.default)}`);
  return parts.join(", ");
}

function fields(given, seen) {
  const schema = resolved(given);
  const within = given.$ref ? [...seen, given.$ref] : seen;
  const items = [];
  for (const [name, field] of Object.entries(schema.properties || {})) {
    const needed = (schema.required || []).includes(name);
    items.push(make("li", {}, make("code", {}, name), needed ? " (needed) " : " ", shape(field, within)));
  }
  const parts = items.length ? [make("ul", { class: "fields" }, items)] : [];
  if (schema.items) parts.push(make("div", {}, "each: ", shape(schema.items, within)));
  for (const word of ["allOf", "oneOf", "anyOf"]) {
    const choices = (schema[word] || []).filter((each) => each.$ref || each.type || each.properties);
    if (choices.length) {
      parts.push(make("div", {}, word === "allOf" ? "and " : word === "anyOf" ? "at least one of " : "one of ",
        make("ul", { class: "fields" }, choices.map((each) => make("li", {}, shape(each, within))))));
    }
  }
  if (schema.contentSchema) parts.push(make("div", {}, "as JSON: ", shape(schema.contentSchema, within)));
  return parts;
}

function shape(given, seen = []) {
  const schema = resolved(given);
  const name = given.$ref ? given.$ref.split("/").pop() : "";
  const line = [name ? make("strong", {}, name) : null, " ", make("span", { class: "type" }, kind(schema)),
    ...prose(schema.description)];
  if (given.$ref && seen.includes(given.$ref)) return make("span", {}, line);
  const inner = fields(given, seen);
  if (!inner.length) return make("span", {}, line);
  if (!name) return make("span", {}, line, inner);
  // What has a name is folded: the same thing stands in many places.
  const folded = make("details", {}, make("summary", {}, line[0], " ", line[2]), line.slice(3));
  folded.addEventListener("toggle", () => {
    if (folded.open && !folded.dataset.filled) { folded.dataset.filled = "1"; folded.append(...inner); }
  });
  return folded;
}

function shown(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

function examplesOf(media) {
  return Object.entries(media.examples || {}).map(([name, each]) => [name, resolved(each).value]);
}

function contents(content) {
  return Object.entries(content || {}).map(([type, media]) => make("dd", {},
    make("code", {}, type), " ", media.schema ? shape(media.schema) : "",
    examplesOf(media).map(([name, value]) => make("details", {},
      make("summary", {}, `example: ${name}`), make("pre", {}, shown(value))))));
}

// One call

function parametersOf(path, call) {
  return [...(call.parameters || []), ...(path.parameters || [])].map(resolved);
}

function described(path, call) {
  const parts = prose(call.description);
  const listed = parametersOf(path, call);
  if (listed.length) {
    parts.push(make("h4", {}, "Parameters"), make("dl", {}, listed.map((each) => [
      make("dt", {}, make("code", {}, each.name), ` in the ${each.in}`, each.required ? ", needed" : ""),
      make("dd", {}, make("span", { class: "type" }, kind(resolved(each.schema))), prose(each.description)),
    ])));
  }
  if (call.requestBody) {
    const needed = call.requestBody.required ? "" : ", may be empty";
    parts.push(make("h4", {}, `Body${needed}`), make("dl", {}, contents(call.requestBody.content)));
  }
  parts.push(make("h4", {}, "Answers"), make("dl", {}, Object.entries(call.responses).map(([status, each]) => {
    const answer = resolved(each);
    const text = answer.description || "";
    const headers = Object.keys(answer.headers || {});
    const inner = [prose(text), headers.length
      ? make("p", { class: "dim" }, `Headers: ${headers.join(", ")}`) : null, contents(answer.content)];
    if (status < "400") return [make("dt", {}, make("strong", { class: "good" }, status)), make("dd", {}, inner)];
    return [make("dt", {}, make("details", {},
      make("summary", {}, make("strong", { class: "bad" }, status), " ", words(text.split("\n")[0])), inner))];
  })));
  return parts;
}

// Trying it

let fieldCount = 0;

function field(label, input) {
  input.id = `field-${++fieldCount}`;
  return make("div", { class: "field" }, make("label", { for: input.id }, label), input);
}

function inputFor(parameter) {
  const schema = resolved(parameter.schema);
  const options = schema.enum || (schema.type === "boolean" ? ["false", "true"] : null);
  if (options && parameter.in === "path") return make("select", {}, options.map((each) => make("option", {}, each)));
  if (options) return make("select", {}, make("option", { value: "" }, "–"), options.map((each) => make("option", {}, each)));
  return make("input", { value: parameter.in === "path" ? parameter.example || "" : null,
    placeholder: parameter.required ? "needed" : "", autocomplete: "off" });
}

function formInputs(media, changed) {
  const schema = resolved(media.schema);
  const example = (examplesOf(media)[0] || [])[1] || {};
  return Object.entries(schema.properties || {}).map(([name, each]) => {
    const file = (each.items || each).format === "binary";
    const input = file ? make("input", { type: "file", multiple: each.type === "array" })
      : make("input", { value: example[name] || "" });
    input.name = name;
    input.addEventListener("input", changed);
    return field(name, input);
  });
}

class Trial {
  constructor(pathText, method, path, call) {
    Object.assign(this, { pathText, method, call });
    this.inputs = parametersOf(path, call).map((each) => [each, inputFor(each)]);
    this.body = make("div", {});
    this.types = Object.keys((call.requestBody || {}).content || {});
    this.type = make("select", {}, this.types.map((each) => make("option", {}, each)));
    // Where a parameter says whether the answer is a stream, Accept does not.
    const flagged = this.inputs.some(([each]) => each.name === "sse");
    const accepted = new Set(flagged ? [] : Object.entries(call.responses).filter(([status]) => status < "300")
      .flatMap(([, each]) => Object.keys(resolved(each).content || {})));
    this.accept = make("select", {}, [...accepted].map((each) => make("option", {}, each)));
    this.curl = make("pre", { "aria-label": "The same with curl" });
    this.send = make("button", { type: "submit" }, "Send");
    this.stop = make("button", { type: "button", class: "plain", hidden: true }, "Stop");
    this.status = make("p", { role: "status" });
    this.output = make("pre", { hidden: true, tabindex: "0", "aria-label": "The answer" });
    this.save = make("p", {});
    this.form = make("form", { class: "try" }, make("h4", {}, "Try it"),
      this.inputs.map(([each, input]) => field(`${each.name}${each.required ? " *" : ""}`, input)),
      accepted.size > 1 ? field("Accept", this.accept) : null,
      this.types.length > 1 ? field("Content-Type", this.type) : null,
      this.body, this.curl, make("p", {}, this.send, " ", this.stop), this.status, this.output, this.save);
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.run(); });
    this.form.addEventListener("input", () => this.tell());
    this.type.addEventListener("change", () => this.fillBody());
    this.stop.addEventListener("click", () => this.aborter.abort());
    this.fillBody();
  }

  fillBody() {
    this.body.replaceChildren();
    this.text = this.file = this.parts = null;
    const type = this.type.value;
    const media = type ? this.call.requestBody.content[type] : null;
    if (media && type === "multipart/form-data") {
      this.parts = formInputs(media, () => this.tell());
      this.body.append(...this.parts);
    } else if (media && resolved(media.schema).format === "binary" && type !== "text/plain") {
      this.file = make("input", { type: "file" });
      this.body.append(field("File", this.file));
    } else if (media) {
      const examples = examplesOf(media);
      this.text = make("textarea", { spellcheck: "false" }, examples.length ? shown(examples[0][1]) : "");
      if (examples.length > 1) {
        const choice = make("select", {}, examples.map(([name]) => make("option", {}, name)));
        choice.addEventListener("change", () => {
          this.text.value = shown(examples.find(([name]) => name === choice.value)[1]);
          this.tell();
        });
        this.body.append(field("Example", choice));
      }
      this.body.append(field("Body", this.text));
    }
    this.tell();
  }

  request() {
    const query = new URLSearchParams(), headers = {};
    let path = this.pathText;
    for (const [each, input] of this.inputs) {
      if (each.in === "path") path = path.replace(`{${each.name}}`, encodeURIComponent(input.value));
      else if (!input.value) continue;
      else if (each.in === "query") query.append(each.name, input.value);
      else headers[each.name] = input.value;
    }
    if (this.accept.value && this.accept.value !== "*/*") headers.Accept = this.accept.value;
    let body = null;
    if (this.parts) {
      body = new FormData();
      for (const input of this.parts.map((each) => each.querySelector("input"))) {
        if (input.type === "file") for (const file of input.files) body.append(input.name, file);
        else if (input.value) body.append(input.name, input.value);
      }
    } else if (this.file) [body] = this.file.files;
    else if (this.text) body = this.text.value;
    if (body != null && !this.parts && this.type.value) headers["Content-Type"] = this.type.value;
    const url = base + path + (query.size ? `?${query}` : "");
    return { url, method: this.method.toUpperCase(), headers, body };
  }

  tell() {
    const { url, method, headers, body } = this.request();
    const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
    const lines = [`curl -N -X ${method} ${quoted(location.origin + url)}`];
    if (keyed()) lines.push("-H 'X-API-Key: YOUR-KEY'");
    for (const [name, value] of Object.entries(headers)) lines.push(`-H ${quoted(`${name}: ${value}`)}`);
    if (body instanceof FormData) {
      for (const [name, value] of body) {
        lines.push(value instanceof File ? `-F ${quoted(`${name}=@${value.name}`)}` : `--form-string ${quoted(`${name}=${value}`)}`);
      }
    } else if (body instanceof File) lines.push(`--data-binary ${quoted(`@${body.name}`)}`);
    else if (body) lines.push(`--data-raw ${quoted(body)}`);
    this.curl.textContent = lines.join(" \\\n  ");
  }

  async run() {
    const { url, method, headers, body } = this.request();
    if ($("key").value && keyed()) headers["X-API-Key"] = $("key").value;
    this.aborter = new AbortController();
    this.send.disabled = true;
    this.stop.hidden = false;
    this.output.hidden = true;
    this.save.replaceChildren();
    this.status.textContent = "Sent …";
    const began = performance.now();
    const took = () => `${Math.round(performance.now() - began)} ms`;
    try {
      const answer = await fetch(url, { method, headers, body, signal: this.aborter.signal, cache: "no-store" });
      this.status.replaceChildren(make("strong", { class: answer.ok ? "good" : "bad" },
        `${answer.status} ${answer.statusText}`), ` ${answer.headers.get("Content-Type") || ""}, after ${took()}, request ${answer.headers.get("X-Request-Id") || "?"}`);
      await this.show(answer);
      this.status.append(`; ended after ${took()}`);
    } catch (error) {
      this.status.append(error.name === "AbortError" ? " Stopped." : ` Failed: ${error.message}`);
    } finally {
      this.send.disabled = false;
      this.stop.hidden = true;
    }
  }

  async show(answer) {
    const type = answer.headers.get("Content-Type") || "";
    if (answer.status === 204) return;
    this.output.hidden = false;
    this.output.textContent = "";
    if (type.startsWith("text/event-stream")) {
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        this.output.append(value);
        this.output.scrollTop = this.output.scrollHeight;
      }
    }
    if (type.includes("json")) {
      const text = await answer.text();
      try { this.output.textContent = JSON.stringify(JSON.parse(text), null, 2); } catch { this.output.textContent = text; }
    } else if (type.startsWith("text/") || type.includes("openmetrics")) this.output.textContent = await answer.text();
    else {
      const data = await answer.blob();
      this.output.textContent = `${data.size} bytes`;
      this.save.append(make("a", { href: URL.createObjectURL(data), download: "answer" }, "Save them"));
    }
  }
}

function keyed() {
  return !(doc.security || []).some((each) => !Object.keys(each).length);
}

// The page

function card(pathText, method, path, call) {
  const heading = make("h3", {}, make("span", { class: `method ${method}` }, method.toUpperCase()), " ",
    make("span", { class: "path" }, pathText));
  const inner = make("div", {});
  const made = make("details", { class: "call", id: call.operationId },
    make("summary", {}, heading, make("span", { class: "dim" }, call.summary)), inner);
  made.addEventListener("toggle", () => {  // made when it is opened: there are many
    if (!made.open || inner.childElementCount) return;
    inner.append(...described(path, call), new Trial(pathText, method, path, call).form);
  });
  return made;
}

function openNamed() {
  const named = $(location.hash.slice(1));
  if (named && named.matches("details.call")) { named.open = true; named.scrollIntoView(); }
}

function render() {
  $("version").textContent = `${doc.info.title} ${doc.info.version}, OpenAPI ${doc.openapi}`;
  $("about").append(...prose(doc.info.description));
  $("keys").hidden = !keyed();
  $("keys").addEventListener("submit", (event) => event.preventDefault());
  for (const tag of doc.tags) {
    const links = [], cards = [];
    for (const [pathText, path] of Object.entries(doc.paths)) {
      for (const method of ["get", "post", "put", "delete"]) {
        const call = path[method];
        if (!call || call.tags[0] !== tag.name) continue;
        cards.push(card(pathText, method, path, call));
        links.push(make("li", {}, make("a", { href: `#${call.operationId}` }, call.summary)));
      }
    }
    $("contents").append(make("li", {}, make("strong", {}, tag.name), make("ul", {}, links)));
    $("calls").append(make("section", {}, make("h2", {}, tag.name), prose(tag.description), cards));
  }
  openNamed();
  addEventListener("hashchange", openNamed);
}

async function begin() {
  $("document").href = `${base}/openapi.json`;
  try {
    const answer = await fetch(`${base}/openapi.json`);
    if (!answer.ok) throw new Error(`openapi.json: ${answer.status}`);
    doc = await answer.json();
    render();
    $("state").remove();
  } catch (error) {
    $("state").textContent = `The description could not be read: ${error.message}`;
  }
}

begin();
