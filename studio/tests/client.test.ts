import { afterEach, describe, expect, it, vi } from "vitest";

import { api, ApiError, composeStream, serverSentEvents, setApiKey } from "../src/api/client";

function body(...parts: string[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const part of parts) controller.enqueue(new TextEncoder().encode(part));
      controller.close();
    },
  });
}

async function all<T>(events: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const event of events) found.push(event);
  return found;
}

function answerWith(response: Response | Error) {
  const fetched = vi.fn((_path: string, _init: RequestInit) =>
    response instanceof Error ? Promise.reject(response) : Promise.resolve(response),
  );
  vi.stubGlobal("fetch", fetched);
  return fetched;
}

afterEach(() => {
  vi.unstubAllGlobals();
  setApiKey(null);
});

describe("server-sent events", () => {
  it("are parsed across any chunk boundaries", async () => {
    const text = 'event: start\ndata: {"seed":1}\n\n: keep-alive\n\nevent: piece\ndata: {"a":\ndata: "é"}\n\n';
    const expected = [
      { name: "start", data: { seed: 1 } },
      { name: "piece", data: { a: "é" } },
    ];
    expect(await all(serverSentEvents(body(text)))).toEqual(expected);
    const bytes = new TextEncoder().encode(text);
    const cut = new ReadableStream<Uint8Array>({
      start(controller) {
        bytes.forEach((_, at) => controller.enqueue(bytes.slice(at, at + 1)));
        controller.close();
      },
    });
    expect(await all(serverSentEvents(cut))).toEqual(expected);
  });

  it("that are incomplete are ignored", async () => {
    expect(await all(serverSentEvents(body('event: bars\ndata: {"a":1}')))).toEqual([]);
  });

  it("are cancelled when the consumer stops", async () => {
    let isCancelled = false;
    const endless = new ReadableStream<Uint8Array>({
      pull(controller) {
        controller.enqueue(new TextEncoder().encode("event: bars\ndata: 1\n\n"));
      },
      cancel() {
        isCancelled = true;
      },
    });
    for await (const event of serverSentEvents(endless)) {
      expect(event.data).toBe(1);
      break;
    }
    expect(isCancelled).toBe(true);
  });
});

describe("a composition", () => {
  it("that ends before the piece is an error", async () => {
    answerWith(new Response(body('event: start\ndata: {"seed":1}\n\n')));
    await expect(all(composeStream({ bars: 1 }))).rejects.toThrow(ApiError);
  });

  it("that fails raises the problem", async () => {
    answerWith(new Response(body('event: error\ndata: {"title":"t","detail":"the model failed","status":502}\n\n')));
    await expect(all(composeStream({ bars: 1 }))).rejects.toThrow("the model failed");
  });
});

describe("calls", () => {
  it("send the key", async () => {
    setApiKey("secret");
    const fetched = answerWith(Response.json({ models: [] }));
    await api.models();
    expect(new Headers(fetched.mock.calls[0]?.[1].headers).get("Authorization")).toBe("Bearer secret");
  });

  it("ask for tracks whose ids have slashes", async () => {
    const fetched = answerWith(new Response("sound"));
    await api.trackAudio("ryans/reel 7");
    expect(fetched.mock.calls[0]?.[0]).toBe("/v1/tracks/ryans%2Freel%207/audio");
  });

  it("raise the gateway's problems", async () => {
    answerWith(Response.json({ title: "Invalid", detail: "bars: too many", status: 422 }, { status: 422 }));
    await expect(api.compose({})).rejects.toMatchObject({ message: "bars: too many", problem: { status: 422 } });
  });

  it("raise an error for a response without a problem, as of a proxy", async () => {
    answerWith(new Response("<html>", { status: 502, statusText: "Bad Gateway" }));
    await expect(api.models()).rejects.toMatchObject({ message: "Bad Gateway", problem: { status: 502 } });
  });

  it("report a gateway that cannot be reached as the status 0", async () => {
    answerWith(new TypeError("fetch failed"));
    await expect(api.models()).rejects.toMatchObject({ problem: { status: 0 } });
  });

  it("that are aborted raise an AbortError", async () => {
    answerWith(new DOMException("aborted", "AbortError"));
    await expect(api.models()).rejects.toMatchObject({ name: "AbortError" });
  });
});
