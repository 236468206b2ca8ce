import { describe, expect, it } from "vitest";

import type { Schemas } from "../src/api/client";
import {
  appended,
  barStarts,
  durationS,
  EMPTY,
  excerpt,
  isPolyphonic,
  nBars,
  noteList,
  pitchName,
  replaced,
  scoreOf,
  toggled,
  endOfBar,
  type Note,
  type Score,
} from "../src/music/notes";

function score(notes: Note[], changes: Partial<Score> = {}): Score {
  return { ...EMPTY, notes, ...changes };
}

function chunk(firstFrame: number, notes: Note[], held: number[] = [], nFrames = 16): Schemas["PieceChunk"] {
  return {
    ...noteList(score(notes, { nFrames })),
    first_frame: firstFrame,
    bars: [0, 1],
    held_pitches: held,
    nll: [],
  } as unknown as Schemas["PieceChunk"];
}

describe("scores of the gateway", () => {
  it("are the same after a round trip", () => {
    const piece = noteList(score([[0, 4, 60]], { firstFrameInBar: 12, nFrames: 20 }));
    expect(noteList(scoreOf(piece as never))).toEqual(piece);
  });

  it("without bars have bars of four quarters", () => {
    const piece = { ...noteList(score([])), frames_per_bar: 0, meter: null };
    expect(scoreOf(piece as never)).toMatchObject({ framesPerBar: 16, meter: null });
  });

  it("have the duration of their tempo", () => {
    expect(durationS(score([], { nFrames: 32, tempoQpm: 120 }))).toBe(4);
    expect(durationS(score([], { nFrames: 32, tempoQpm: 60 }))).toBe(8);
  });
});

describe("chunks", () => {
  it("follow the score", () => {
    const grown = appended(score([[0, 4, 60]], { nFrames: 16 }), chunk(16, [[0, 4, 62]]));
    expect(grown.notes).toEqual([
      [0, 4, 60],
      [16, 4, 62],
    ]);
    expect(grown.nFrames).toBe(32);
  });

  it("lengthen held notes instead of striking them again", () => {
    const grown = appended(score([[12, 4, 60]], { nFrames: 16 }), chunk(16, [[0, 6, 60], [8, 2, 60]], [60]));
    expect(grown.notes).toEqual([
      [12, 10, 60],
      [24, 2, 60],
    ]);
  });

  it("do not modify the score that they are appended to", () => {
    const before = score([[12, 4, 60]], { nFrames: 16 });
    appended(before, chunk(16, [[0, 6, 60]], [60]));
    expect(before.notes).toEqual([[12, 4, 60]]);
  });
});

describe("bars", () => {
  it("begin after an upbeat, which is a bar of its own", () => {
    const upbeat = score([], { firstFrameInBar: 12, nFrames: 36 });
    expect(barStarts(upbeat)).toEqual([0, 4, 20]);
    expect(nBars(upbeat)).toBe(3);
    expect(endOfBar(upbeat, 5)).toBe(20);
  });

  it("are cut out with their notes", () => {
    const two = excerpt(score([[0, 4, 60], [16, 40, 62], [50, 2, 64]], { nFrames: 64 }), 1, 3);
    expect(two.notes).toEqual([[0, 32, 62]]);
    expect(two.nFrames).toBe(32);
  });

  it("are replaced, and notes that extend into them are cut", () => {
    const whole = score([[0, 60, 50], [20, 20, 60], [56, 4, 64]], { nFrames: 64 });
    const by = score([[0, 8, 72]], { nFrames: 16 });
    expect(replaced(whole, 1, 2, by)?.notes).toEqual([
      [0, 16, 50],
      [16, 8, 72],
      [32, 28, 50],
      [32, 8, 60],
      [56, 4, 64],
    ]);
  });

  it("are not replaced by bars of another length or grid", () => {
    const whole = score([], { nFrames: 64 });
    expect(replaced(whole, 1, 2, score([], { nFrames: 32 }))).toBeNull();
    expect(replaced(whole, 1, 2, score([], { nFrames: 16, framesPerQuarter: 8 }))).toBeNull();
  });
});

describe("clicks", () => {
  it("add a note, and a bar at the end of the score", () => {
    const next = toggled(EMPTY, 31, 2, 60);
    expect(next.notes).toEqual([[31, 2, 60]]);
    expect(next.nFrames).toBe(48);
  });

  it("remove an existing note", () => {
    expect(toggled(score([[4, 4, 60]]), 6, 2, 60).notes).toEqual([]);
  });

  it("shorten an earlier note of the same pitch, and no other", () => {
    expect(toggled(score([[4, 4, 60], [4, 8, 64]]), 2, 4, 60).notes.filter((note) => note[2] === 60)).toHaveLength(2);
    expect(toggled(score([[4, 8, 64]]), 6, 2, 60).notes).toContainEqual([4, 8, 64]);
  });
});

describe("voices", () => {
  it("are several if notes overlap", () => {
    expect(isPolyphonic(score([[0, 4, 60], [4, 4, 62]]))).toBe(false);
    expect(isPolyphonic(score([[4, 4, 62], [0, 5, 60]]))).toBe(true);
    expect(isPolyphonic(EMPTY)).toBe(false);
  });
});

it("names pitches with accidentals and octaves", () => {
  expect([21, 60, 61, 108].map(pitchName)).toEqual(["A0", "C4", "C♯4", "C8"]);
});
