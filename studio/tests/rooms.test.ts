import { describe, expect, it, vi } from "vitest";

import type { Classification } from "../src/api/client";
import { area, emotionCurves, labelCurves, passages } from "../src/rooms/listen/timeline-data";
import { groupByCause } from "../src/rooms/recommend/group-reasons";
import { conditionsOf, samplingOf } from "../src/rooms/write/conditions";
import { chosen, composing, streams } from "../src/rooms/write/models";

vi.mock("../src/api/client", () => ({ api: {} }));

describe("the conditions of a composition", () => {
  const open = { pieceKey: "", pieceMode: "", pieceDensity: "", structure: " ", ending: "" } as const;

  it("are left out where nothing is chosen", () => {
    expect(JSON.stringify(conditionsOf(open))).toBe("{}");
  });

  it("are those that are chosen, letters of the form being capitals", () => {
    const chosen = { pieceKey: "F#", pieceMode: "minor", pieceDensity: "low", structure: " aaba ", ending: "open" } as const;
    expect(conditionsOf(chosen)).toEqual({ key: "F#", mode: "minor", density: "low", structure: "AABA", ending: false });
  });
});

describe("the sampling parameters", () => {
  it("are those of the model until the sliders are moved", () => {
    expect(JSON.stringify(samplingOf({ temperature: 0, topP: 1 }))).toBe("{}");
    expect(samplingOf({ temperature: 0.5, topP: 0.9 })).toEqual({ temperature: 0.5, top_p: 0.9 });
    expect(samplingOf({ temperature: 1, topP: 1 })).toEqual({ temperature: 1 });
  });
});

describe("the timeline of a recording", () => {
  const timeline = [
    { start_s: 0, probabilities: { jazz: 0.9, folk: 0.1 }, emotions: null },
    { start_s: 3, probabilities: { folk: 0.2, jazz: 0.8 }, emotions: null },
    { start_s: 6, probabilities: { jazz: 0.25, folk: 0.75 }, emotions: null },
  ];

  it("is divided at changes of the most probable label", () => {
    expect(passages(timeline, 8)).toEqual([
      { startS: 0, endS: 6, label: "jazz" },
      { startS: 6, endS: 8, label: "folk" },
    ]);
    expect(passages([], 8)).toEqual([]);
  });

  it("is drawn as steps, up to the end of the recording", () => {
    const folk = (window: Classification["timeline"][number]) => window.probabilities.folk ?? 0;
    expect(area(timeline, folk, 8)).toBe("M0 1L0 0.9L3 0.9L3 0.8L6 0.8L6 0.25L8 0.25L8 1Z");
    expect(area([], folk, 8)).toBe("");
  });

  it("has the strongest labels and emotions as curves", () => {
    const emotions = { power: 0.5, sadness: 0.25 };
    const window = { start_s: 0, probabilities: { jazz: 0.75, folk: 0.25 }, emotions };
    const result = { probabilities: window.probabilities, emotions, timeline: [window] } as unknown as Classification;
    expect(labelCurves(result, 1).map((each) => [each.name, each.valueOf(window)])).toEqual([["jazz", 0.75]]);
    expect(emotionCurves(result, 5).map((each) => [each.name, each.valueOf(window)])).toEqual([
      ["power", 0.5],
      ["sadness", 0.25],
    ]);
  });

  it("has no emotions if the model or a stored result has none", () => {
    const stored = { probabilities: {}, emotions: { power: 1 }, timeline } as unknown as Classification;
    expect(emotionCurves(stored, 5)).toEqual([]);
    expect(emotionCurves({ ...stored, emotions: null, timeline: [] }, 5)).toEqual([]);
  });
});

describe("the reasons for a track", () => {
  const reason = (because: string, id: string, amount: number) =>
    ({ because, id, amount, base_model: "m", title: null, artist: null }) as Parameters<typeof groupByCause>[0][number];

  it("are one for each cause, the largest first", () => {
    const reasons = [reason("history", "a", 0.25), reason("tag", "a", -0.75), reason("history", "a", 0.25)];
    expect(groupByCause(reasons).map((each) => [each.because, each.amount])).toEqual([
      ["tag", -0.75],
      ["history", 0.5],
    ]);
    expect(groupByCause([])).toEqual([]);
    expect(groupByCause(["a", "b", "c", "d"].map((id) => reason("history", id, 1)))).toHaveLength(3);
  });
});

describe("the models that compose", () => {
  const served = ["composer", "genre_cnn", "music_transformer", "music_transformer-jazz", "polyphony_rnn_sampler"];

  it("are those of composing kinds, streaming models first", () => {
    expect(composing(served)).toEqual(["composer", "music_transformer", "music_transformer-jazz"]);
    expect(streams("composer")).toBe(true);
    expect(streams("music_transformer")).toBe(false);
  });

  it("are used as chosen, or else the first served one", () => {
    expect(chosen("music_transformer", ["composer", "music_transformer"])).toBe("music_transformer");
    expect(chosen("gone", ["polyphony_rnn"])).toBe("polyphony_rnn");
    expect(chosen("", [])).toBe("composer");
  });
});
