import { describe, expect, it } from "vitest";

import { loadBetween, parseMetrics, quantile } from "../src/rooms/watch/metrics";

const requests = (route: string, status: number, value: number) =>
  `tritone_gateway_requests_total{caller="a",route="${route}",status="${status}"} ${value}`;
const duration = (route: string, le: string, value: number) =>
  `tritone_gateway_request_duration_seconds_bucket{route="${route}",le="${le}"} ${value}`;

describe("Prometheus's text format", () => {
  it("is parsed with labels and without comments", () => {
    const text = '# HELP a words\n# TYPE a counter\na{b="c,d}",e="\\"f\\\\\\n"} 1.5e3 1700000000\nplain 2\n\n';
    expect(parseMetrics(text)).toEqual([
      { name: "a", labels: { b: "c,d}", e: '"f\\\n' }, value: 1500 },
      { name: "plain", labels: {}, value: 2 },
    ]);
  });

  it("may have infinite values", () => {
    expect(parseMetrics("a +Inf\nb -Inf").map((each) => each.value)).toEqual([Infinity, -Infinity]);
  });

  it("has no samples if the text is something else", () => {
    expect(parseMetrics("<!doctype html>\n<p>no</p>")).toEqual([]);
  });
});

describe("quantiles", () => {
  const buckets: [number, number][] = [
    [0.1, 50],
    [0.2, 100],
    [Infinity, 100],
  ];

  it("are interpolated within a bucket", () => {
    expect(quantile(buckets, 0.5)).toBeCloseTo(0.1);
    expect(quantile(buckets, 0.75)).toBeCloseTo(0.15);
  });

  it("beyond the largest bound are that bound", () => {
    expect(quantile([[0.1, 1], [Infinity, 10]], 0.9)).toBe(0.1);
  });

  it("of no observations are null", () => {
    expect(quantile([], 0.5)).toBeNull();
    expect(quantile([[0.1, 0]], 0.5)).toBeNull();
  });
});

describe("the load", () => {
  const before = parseMetrics([requests("/v1/compose", 200, 10), duration("/v1/compose", "+Inf", 10)].join("\n"));
  const after = parseMetrics(
    [
      requests("/v1/compose", 200, 14),
      requests("/v1/compose", 503, 1),
      duration("/v1/compose", "0.1", 5),
      duration("/v1/compose", "+Inf", 15),
      requests("/v1/models", 200, 99),
      requests("/readyz", 200, 99),
      requests("/v1/classify", 200, 0),
    ].join("\n"),
  );

  it("is the change for each route, without this page's own requests", () => {
    expect(loadBetween(before, after, 2)).toEqual([
      { route: "/v1/compose", perSecond: 2.5, p50: expect.closeTo(0.05), p95: expect.closeTo(0.095), failed: 1 },
    ]);
  });

  it("of an idle gateway is empty", () => {
    expect(loadBetween(after, after, 2)).toEqual([]);
  });
});
