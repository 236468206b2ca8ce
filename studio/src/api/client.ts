/** Calls of the gateway, typed by its OpenAPI schema. */

import type { components } from "./schema";

export type Schemas = components["schemas"];
export type Piece = Schemas["Piece"];
export type Classification = Schemas["Classification"];
export type Recommendations = Schemas["Recommendations"];
export type TrackPage = Schemas["TrackPage"];
export type Inspiration = Schemas["Inspiration"];
export type Models = Schemas["Models"];
export type Problem = Schemas["Problem"];

/** The body of a request; fields with defaults are optional. */
type Body<Name extends keyof Schemas> = Schemas[Name];

/** A problem that the gateway has returned (RFC 9457), or a failed connection. */
export class ApiError extends Error {
  constructor(
    readonly problem: Pick<Problem, "title" | "detail" | "status"> & Partial<Problem>,
  ) {
    super(problem.detail || problem.title);
  }
}

export interface CallOptions {
  accept?: string;
  signal?: AbortSignal;
}

let apiKey: string | null = null;

/** Set the API key of all further calls; null for none. */
export function setApiKey(key: string | null): void {
  apiKey = key;
}

async function send(path: string, init: RequestInit, options: CallOptions): Promise<Response> {
  const headers = new Headers(init.headers);
  headers.set("Accept", options.accept ?? "application/json");
  if (apiKey) headers.set("Authorization", `Bearer ${apiKey}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, signal: options.signal ?? null });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw connectionError();
  }
  if (response.ok) return response;
  throw new ApiError(await problemOf(response));
}

/** Return the error for a lost connection to the gateway, with status 0. */
function connectionError(): ApiError {
  return new ApiError({ title: "offline", detail: "", status: 0 });
}

async function problemOf(response: Response): Promise<Problem> {
  const fallback = { type: "about:blank", title: response.statusText, status: response.status, detail: "" };
  try {
    return { ...fallback, ...((await response.json()) as Problem) };
  } catch {
    return fallback;
  }
}

function json(body: unknown): RequestInit {
  return { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
}

function form(file: Blob, fields: Record<string, string | number | undefined>): RequestInit {
  const data = new FormData();
  data.append("file", file);
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined) data.append(name, String(value));
  }
  return { method: "POST", body: data };
}

export const api = {
  async classify(file: Blob, options: CallOptions = {}): Promise<Classification> {
    return (await send("/v1/classify", form(file, {}), options)).json();
  },
  async compose(body: Body<"ComposeRequest">, options: CallOptions = {}): Promise<Piece> {
    return (await send("/v1/compose", json(body), options)).json();
  },
  /** Compose a piece, classify its sound and recommend similar tracks. */
  async inspire(body: Body<"InspireRequest">, options: CallOptions = {}): Promise<Inspiration> {
    return (await send("/v1/inspire", json(body), options)).json();
  },
  async harmonize(body: Body<"HarmonizeRequest">, options: CallOptions = {}): Promise<Piece> {
    return (await send("/v1/harmonize", json(body), options)).json();
  },
  async infill(body: Body<"InfillRequest">, options: CallOptions = {}): Promise<Piece> {
    return (await send("/v1/infill", json(body), options)).json();
  },
  async vary(body: Body<"VaryRequest">, options: CallOptions = {}): Promise<Piece> {
    return (await send("/v1/vary", json(body), options)).json();
  },
  async interpolate(body: Body<"InterpolateRequest">, options: CallOptions = {}): Promise<Piece[]> {
    const response = await send("/v1/interpolate", json(body), options);
    return ((await response.json()) as { pieces: Piece[] }).pieces;
  },
  async sample(body: Body<"SampleRequest">, options: CallOptions = {}): Promise<Piece[]> {
    const response = await send("/v1/sample", json(body), options);
    return ((await response.json()) as { pieces: Piece[] }).pieces;
  },
  /** Read a score file as notes. */
  async readScore(file: Blob, options: CallOptions = {}): Promise<Piece> {
    return (await send("/v1/convert", form(file, {}), options)).json();
  },
  /** Return a score in another format, such as MIDI or MusicXML. */
  async convert(
    file: Schemas["NoteList"],
    accept: string,
    { instruments, ...options }: CallOptions & { instruments?: readonly string[] } = {},
  ): Promise<Blob> {
    return (await send("/v1/convert", json({ file, instruments }), { ...options, accept })).blob();
  },
  async recommend(body: Body<"RecommendRequest">, options: CallOptions = {}): Promise<Recommendations> {
    return (await send("/v1/recommend", json(body), options)).json();
  },
  /** Return the ids of the example users that the operator has chosen. */
  async exampleUsers(options: CallOptions = {}): Promise<string[]> {
    return ((await (await send("/v1/users/examples", {}, options)).json()) as { user_ids: string[] }).user_ids;
  },
  async similar(body: Body<"SimilarRequest">, options: CallOptions = {}): Promise<Recommendations> {
    return (await send("/v1/similar", json(body), options)).json();
  },
  async findTracks(q: string, limit: number, options: CallOptions = {}): Promise<TrackPage> {
    const query = new URLSearchParams({ q, limit: String(limit) });
    return (await send(`/v1/tracks?${query}`, {}, options)).json();
  },
  /** Return the recording of a track; fetched here because an audio element cannot send the API key. */
  async trackAudio(trackId: string, options: CallOptions = {}): Promise<Blob> {
    const path = `/v1/tracks/${encodeURIComponent(trackId)}/audio`;
    return (await send(path, {}, { ...options, accept: "audio/*" })).blob();
  },
  async models(options: CallOptions = {}): Promise<Models> {
    return (await send("/v1/models", {}, options)).json();
  },
  async metrics(options: CallOptions = {}): Promise<string> {
    return (await send("/metrics", {}, { ...options, accept: "text/plain" })).text();
  },
};

export type ComposeEvent =
  | { name: "start"; data: { seed: number } }
  | { name: "bars"; data: Schemas["PieceChunk"] }
  | { name: "piece"; data: Piece };

/** Compose bar by bar; aborting the signal stops the model.
 *
 * @throws ApiError if the gateway reports a problem, or the connection ends before the complete piece
 */
export async function* composeStream(
  body: Body<"ComposeRequest">,
  options: CallOptions = {},
): AsyncGenerator<ComposeEvent> {
  const response = await send("/v1/compose", json(body), { ...options, accept: "text/event-stream" });
  if (!response.body) throw connectionError();
  let isComplete = false;
  try {
    for await (const { name, data } of serverSentEvents(response.body)) {
      if (name === "error") throw new ApiError(data as Problem);
      isComplete = name === "piece";
      yield { name, data } as ComposeEvent;
    }
  } catch (error) {
    if (error instanceof TypeError) throw connectionError(); // the connection broke
    throw error;
  }
  if (!isComplete) throw connectionError();
}

/** Read server-sent events with JSON data from the body of a response. */
export async function* serverSentEvents(
  body: ReadableStream<Uint8Array>,
): AsyncGenerator<{ name: string; data: unknown }> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let buffered = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      buffered += value;
      const events = buffered.split("\n\n");
      buffered = events.pop() ?? "";
      for (const event of events) {
        const lines = event.split("\n");
        const name = lines.find((line) => line.startsWith("event: "))?.slice(7);
        const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
        if (name && data.length) yield { name, data: JSON.parse(data.join("\n")) };
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
