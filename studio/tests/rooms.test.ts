import { describe, expect, it, vi } from "vitest";

import { area, passages } from "../src/rooms/listen/windows";
import { chosen, composing, streams } from "../src/rooms/write/models";

vi.mock("../src/api/client", () => ({ api: {} }));

describe("the timeline of a recording", () => {
  const timeline = [
    { start_s: 0, probabilities: { jazz: 0.9, folk: 0.1 } },
    { start_s: 3, probabilities: { folk: 0.2, jazz: 0.8 } },
    { start_s: 6, probabilities: { jazz: 0.25, folk: 0.75 } },
  ];

  it("is divided where the most probable label changes", () => {
    expect(passages(timeline, 8)).toEqual([
      { startS: 0, endS: 6, label: "jazz" },
      { startS: 6, endS: 8, label: "folk" },
    ]);
    expect(passages([], 8)).toEqual([]);
  });

  it("is drawn as steps, up to the end of the recording", () => {
    expect(area(timeline, "folk", 8)).toBe("M0 1L0 0.9L3 0.9L3 0.8L6 0.8L6 0.25L8 0.25L8 1Z");
    expect(area([], "folk", 8)).toBe("");
  });
});

describe("the models that compose", () => {
  const served = ["composer", "genre_cnn", "music_transformer", "music_transformer-jazz", "polyphony_rnn_sampler"];

  it("are those of the kinds that do, the streaming ones first", () => {
    expect(composing(served)).toEqual(["composer", "music_transformer", "music_transformer-jazz"]);
    expect(streams("composer")).toBe(true);
    expect(streams("music_transformer")).toBe(false);
  });

  it("are used as chosen, else the first that is served", () => {
    expect(chosen("music_transformer", ["composer", "music_transformer"])).toBe("music_transformer");
    expect(chosen("gone", ["polyphony_rnn"])).toBe("polyphony_rnn");
    expect(chosen("", [])).toBe("composer");
  });
});
