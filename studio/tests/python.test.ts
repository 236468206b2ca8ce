import { expect, it } from "vitest";

import { pythonCall } from "../src/rooms/write/python";

it("writes a call with the given values", () => {
  const values = { bars: 8, style: undefined, seed: 9007199254740991, top_p: 0.5 };
  expect(pythonCall("compose", values)).toBe("music.compose(bars=8, seed=9007199254740991, top_p=0.5)");
});

it("writes tuples, booleans and None in Python's syntax", () => {
  expect(pythonCall("f", { a: [4, 6], b: [1], c: true, d: false, e: null, f: [] })).toBe(
    "music.f(a=(4, 6), b=(1,), c=True, d=False, e=None, f=())",
  );
});

it("escapes texts", () => {
  expect(pythonCall("f", { a: 'a "b"\n\\' })).toBe('music.f(a="a \\"b\\"\\n\\\\")');
});
