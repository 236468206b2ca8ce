import { describe, expect, it } from "vitest";

import { ENSEMBLES, isEnsemble, partOf, programOf } from "../src/music/instruments";
import type { Note } from "../src/music/notes";

const CHORD: Note[] = [
  [0, 4, 48],
  [0, 4, 60],
  [0, 4, 65],
  [0, 4, 72],
];

describe("parts", () => {
  it.each([
    [1, [0, 0, 0, 0]],
    [2, [1, 1, 1, 0]],
    [3, [2, 1, 1, 0]],
    [4, [3, 2, 1, 0]],
  ])("of a chord for %i instruments", (n, expected) => {
    expect(CHORD.map((note) => partOf(note, CHORD, n))).toEqual(expected);
  });

  it("count notes that are still held", () => {
    const notes: Note[] = [
      [0, 8, 72],
      [4, 4, 60],
      [8, 4, 60],
    ];
    expect(notes.map((note) => partOf(note, notes, 2))).toEqual([0, 1, 0]);
  });
});

describe("ensembles", () => {
  it("have programs of General MIDI", () => {
    expect(ENSEMBLES.strings.map(programOf)).toEqual([40, 41, 42, 43]);
    expect(programOf("Kazoo")).toBe(0);
    for (const [name, instruments] of Object.entries(ENSEMBLES)) {
      if (name !== "piano") expect(instruments.map(programOf)).not.toContain(0);
    }
  });

  it("are known by name", () => {
    expect(isEnsemble("choir")).toBe(true);
    expect(isEnsemble("")).toBe(false);
    expect(isEnsemble("toString")).toBe(false);
  });
});
