"use strict";
// Chats with every model that is ticked at once, each in a column of its own, and shows what the engine is doing.

const byId = (id) => document.getElementById(id);
const columns = new Map(); // model → {messages, section, said, note}
let running = null; // AbortController of the answers being written

const headers = () => {
  const key = byId("key").value;
  return key ? { Authorization: `Bearer ${key}` } : {};
};

function column(model) {
  const section = document.createElement("section");
  section.dataset.model = model;
  const title = document.createElement("h2");
  title.textContent = model;
  const note = document.createElement("small");
  title.append(note);
  const said = document.createElement("div");
  said.className = "said";
  section.append(title, said);
  byId("columns").append(section);
  return { messages: [], section, said, note };
}

function show(model, on) {
  const there = columns.get(model);
  if (on && !there) columns.set(model, column(model));
  if (!on && there) {
    there.section.remove();
    columns.delete(model);
  }
}

function line(col, role, text) {
  const p = document.createElement("p");
  p.className = role;
  p.textContent = text;
  col.said.append(p);
  col.said.scrollTop = col.said.scrollHeight;
  return p;
}

async function models() {
  const answer = await fetch("v1/models", { headers: headers() });
  if (!answer.ok) return false;
  const { data } = await answer.json();
  const box = byId("models");
  const known = new Set([...box.querySelectorAll("input")].map((input) => input.value));
  for (const { id } of data) {
    if (known.has(id)) continue;
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "checkbox", value: id, checked: known.size === 0 && id === data[0].id });
    input.addEventListener("change", () => show(id, input.checked));
    label.append(input, ` ${id}`);
    label.className = "model";
    box.append(label);
    if (input.checked) show(id, true);
  }
  return true;
}

// The data of server-sent events, one at a time.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function answer(model, col, signal) {
  const p = line(col, "assistant", "");
  const began = performance.now();
  let first = null, tokens = 0;
  try {
    const reply = await fetch("v1/chat/completions", {
      method: "POST",
      signal,
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify({
        model,
        messages: col.messages,
        stream: true,
        stream_options: { include_usage: true },
        max_tokens: Number(byId("tokens").value),
        temperature: Number(byId("temperature").value),
        seed: Number(byId("seed").value),
      }),
    });
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    for await (const event of events(reply.body)) {
      if (event.error) throw new Error(event.error.message);
      const text = event.choices?.[0]?.delta?.content;
      if (text) {
        first ??= performance.now();
        p.textContent += text;
        col.said.scrollTop = col.said.scrollHeight;
      }
      if (event.usage) tokens = event.usage.completion_tokens;
    }
    const seconds = (performance.now() - (first ?? began)) / 1000;
    const rate = tokens > 1 ? `, ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
    col.note.textContent = `first token ${((first ?? began) - began).toFixed(0)} ms${rate}`;
  } catch (error) {
    if (error.name !== "AbortError") line(col, "error", error.message);
  }
  col.messages.push({ role: "assistant", content: p.textContent });
}

byId("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = byId("prompt").value.trim();
  if (!text || running) return;
  if (!columns.size) await models();
  byId("prompt").value = "";
  running = new AbortController();
  byId("send").disabled = true;
  byId("stop").disabled = false;
  const asked = [...columns].map(([model, col]) => {
    col.messages.push({ role: "user", content: text });
    line(col, "user", text);
    return answer(model, col, running.signal);
  });
  await Promise.all(asked);
  running = null;
  byId("send").disabled = false;
  byId("stop").disabled = true;
});
byId("stop").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", () => {
  for (const col of columns.values()) {
    col.messages = [];
    col.said.replaceChildren();
    col.note.textContent = "";
  }
});
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("key").addEventListener("change", models);

// --- load ---

const rates = [];
let last = null;

async function load() {
  const answer = await fetch("metrics", { headers: headers() });
  if (!answer.ok) return;
  const found = {};
  for (const row of (await answer.text()).split("\n")) {
    const match = row.match(/^(lmrs_[a-z_]+) ([0-9.e+-]+)$/);
    if (match) found[match[1]] = Number(match[2]);
  }
  for (const cell of document.querySelectorAll("[data-metric]")) cell.textContent = found[cell.dataset.metric] ?? "–";
  const now = performance.now(), tokens = found.lmrs_generated_tokens_total ?? 0;
  if (last) {
    rates.push(Math.max(0, (tokens - last.tokens) / ((now - last.now) / 1000)));
    if (rates.length > 60) rates.shift();
    byId("rate").textContent = rates.at(-1).toFixed(0);
  }
  last = { now, tokens };
  const bytes = (found.lmrs_cached_bytes ?? 0) + (found.lmrs_prefix_bytes ?? 0);
  byId("cache").textContent = (bytes / 2 ** 20).toFixed(1);
  draw();
}

function draw() {
  const canvas = byId("chart"), pen = canvas.getContext("2d"), top = Math.max(1, ...rates);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.strokeStyle = "#3b7dd8";
  pen.beginPath();
  rates.forEach((rate, at) => pen.lineTo((at * canvas.width) / 59, canvas.height - 2 - (rate / top) * (canvas.height - 4)));
  pen.stroke();
}

models();
load();
setInterval(() => load().catch(() => {}), 1000);
