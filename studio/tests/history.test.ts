import { beforeEach, describe, expect, it, vi } from "vitest";

import { EMPTY, type Score } from "../src/music/notes";

const kept = new Map<string, unknown>();
vi.mock("../src/state/indexed-db", () => ({
  writeStored: async (name: string, value: unknown) => {
    kept.set(name, structuredClone(value));
    return true;
  },
  readStored: async (name: string) => kept.get(name),
}));

const NAME = "write.history";
const score = (tempoQpm: number, nNotes = 0): Score => ({
  ...EMPTY,
  tempoQpm,
  notes: Array.from({ length: nNotes }, () => [0, 1, 60]),
});

/** Load the module as a page does that is opened. */
async function opened() {
  vi.resetModules();
  return await import("../src/rooms/write/history");
}

async function settled(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
}

beforeEach(() => kept.clear());

describe("the history of the score", () => {
  it("undoes and redoes", async () => {
    const history = await opened();
    expect(history.stepBack(score(1))).toBeUndefined();
    history.remember(score(1));
    history.remember(score(2));
    expect(history.stepBack(score(3))).toEqual(score(2));
    expect(history.stepBack(score(2))).toEqual(score(1));
    expect([history.canUndo.value, history.canRedo.value]).toEqual([false, true]);
    expect(history.stepForward(score(1))).toEqual(score(2));
    history.remember(score(2));
    expect(history.canRedo.value).toBe(false);
  });

  it("survives a reload, including steps to redo", async () => {
    const first = await opened();
    first.remember(score(1));
    first.remember(score(2));
    first.stepBack(score(3));
    await settled();
    const second = await opened();
    expect(second.canUndo.value).toBe(false);
    await second.restoreHistory();
    expect(second.stepForward(score(2))).toEqual(score(3));
    expect(second.stepBack(score(3))).toEqual(score(2));
    expect(second.stepBack(score(2))).toEqual(score(1));
  });

  it("keeps changes that are made while it is restored", async () => {
    kept.set(NAME, { before: [score(1)], after: [score(9)] });
    const history = await opened();
    const restored = history.restoreHistory();
    history.remember(score(2));
    await restored;
    expect(history.canRedo.value).toBe(false);
    expect(history.stepBack(score(3))).toEqual(score(2));
    expect(history.stepBack(score(2))).toEqual(score(1));
  });

  it("is bounded by steps and by notes", async () => {
    const history = await opened();
    for (let step = 0; step < 120; step += 1) history.remember(score(step + 1));
    await settled();
    expect((kept.get(NAME) as { before: Score[] }).before.map((each) => each.tempoQpm)).toEqual(
      Array.from({ length: 100 }, (_, index) => index + 21),
    );
    for (let step = 0; step < 3; step += 1) history.remember(score(200 + step, 20_000));
    history.remember(score(300, 60_000));
    await settled();
    expect((kept.get(NAME) as { before: Score[] }).before.map((each) => each.tempoQpm)).toEqual([300]);
  });

  it.each([
    ["nothing", undefined],
    ["null", null],
    ["a text", "before"],
    ["a list", []],
    ["one list", { before: [] }],
    ["lists of something else", { before: [1], after: [null] }],
    ["a score without notes", { before: [{ ...EMPTY, notes: undefined }], after: [] }],
    ["notes beyond the end", { before: [{ ...EMPTY, notes: [[31, 2, 60]] }], after: [] }],
    ["a score without end", { before: [{ ...EMPTY, nFrames: 1e12 }], after: [] }],
    ["a tempo of nothing", { before: [{ ...EMPTY, tempoQpm: NaN }], after: [] }],
  ])("ignores %s in the storage", async (_, value) => {
    kept.set(NAME, value);
    const history = await opened();
    await history.restoreHistory();
    expect([history.canUndo.value, history.canRedo.value]).toEqual([false, false]);
    history.remember(score(1));
    expect(history.stepBack(score(2))).toEqual(score(1));
  });
});
