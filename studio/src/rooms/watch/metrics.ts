/** Parser of Prometheus's text format, and the load between two scrapes. */

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

/** Requests of one route in an interval; latencies in seconds. */
export interface Load {
  route: string;
  perSecond: number;
  p50: number | null;
  p95: number | null;
  failed: number;
}

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const REQUESTS = "tritone_gateway_requests_total";
const DURATIONS = "tritone_gateway_request_duration_seconds_bucket";
const OWN_ROUTE = "/v1/models"; // requested by this page, so not counted

export function parseMetrics(text: string): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split("\n")) {
    const found = LINE.exec(line);
    if (!found || line.startsWith("#")) continue;
    const labels: Record<string, string> = {};
    for (const [, name = "", value = ""] of (found[2] ?? "").matchAll(LABEL)) labels[name] = unescaped(value);
    samples.push({ name: found[1] ?? "", labels, value: numberOf(found[3] ?? "") });
  }
  return samples;
}

/** Return a quantile from cumulative buckets `[upper bound, count]`, interpolated as Prometheus does; null if empty. */
export function quantile(buckets: readonly [number, number][], share: number): number | null {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  const rank = share * total;
  let low = 0;
  let below = 0;
  for (const [bound, count] of buckets) {
    if (count >= rank) {
      if (bound === Infinity) return low;
      return low + ((bound - low) * (rank - below)) / Math.max(count - below, 1e-9);
    }
    low = bound;
    below = count;
  }
  return low;
}

/** Return the load between two scrapes for the routes that were called, sorted by name. */
export function loadBetween(before: readonly Sample[], after: readonly Sample[], seconds: number): Load[] {
  const routes = [...new Set(after.map((sample) => sample.labels.route ?? ""))]
    .filter((route) => route.startsWith("/v1") && route !== OWN_ROUTE)
    .sort();
  const change = (name: string, accept: (labels: Record<string, string>) => boolean) =>
    sum(after, name, accept) - sum(before, name, accept);
  const bounds = [...new Set(after.filter((each) => each.name === DURATIONS).map((each) => each.labels.le ?? ""))];
  return routes
    .map((route): Load => {
      const isRoute = (labels: Record<string, string>) => labels.route === route;
      const buckets = bounds
        .map((le): [number, number] => [
          numberOf(le),
          change(DURATIONS, (labels) => isRoute(labels) && labels.le === le),
        ])
        .sort((a, b) => a[0] - b[0]);
      return {
        route,
        perSecond: change(REQUESTS, isRoute) / seconds,
        p50: quantile(buckets, 0.5),
        p95: quantile(buckets, 0.95),
        failed: change(REQUESTS, (labels) => isRoute(labels) && Number(labels.status) >= 400),
      };
    })
    .filter((row) => row.perSecond > 0);
}

function sum(samples: readonly Sample[], name: string, accept: (labels: Record<string, string>) => boolean): number {
  return samples.reduce((total, each) => total + (each.name === name && accept(each.labels) ? each.value : 0), 0);
}

function numberOf(text: string): number {
  return text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text);
}

function unescaped(text: string): string {
  return text.replace(/\\(.)/g, (_, letter: string) => (letter === "n" ? "\n" : letter));
}
