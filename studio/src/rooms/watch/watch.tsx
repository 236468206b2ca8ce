/** The models and the load: versions, readiness, requests per second and latency. */

import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";

import { api, type Models } from "../../api/client";
import { newTask, Status } from "../../components/status";
import { formatNumber, t } from "../../i18n";
import { parseMetrics, quantile, type Sample } from "./metrics";

const EVERY_MS = 2000;

interface Load {
  route: string;
  perSecond: number;
  p50: number | null;
  p95: number | null;
  failed: number;
}

const models = signal<Models["models"]>([]);
const load = signal<Load[]>([]);
const task = newTask();
let previous: { at: number; samples: Sample[] } | null = null;

async function refresh(): Promise<void> {
  await task.run(async (abort) => {
    const [found, text] = await Promise.all([api.models({ signal: abort }), api.metrics({ signal: abort })]);
    models.value = found.models;
    const samples = parseMetrics(text);
    const now = performance.now();
    if (previous) load.value = loadBetween(previous.samples, samples, (now - previous.at) / 1000);
    previous = { at: now, samples };
  });
}

export function Watch() {
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    let stopped = false;
    const loop = async () => {
      if (!document.hidden) await refresh();
      if (!stopped) timer = setTimeout(() => void loop(), EVERY_MS);
    };
    void loop();
    return () => {
      stopped = true;
      clearTimeout(timer);
      task.abort();
      previous = null;
    };
  }, []);
  return (
    <div class="room">
      {task.error.value && <Status task={task} busyText="" />}
      <section class="panel" aria-labelledby="models">
        <h2 id="models">{t("watch.models")}</h2>
        <div class="scroll" tabIndex={0} role="region" aria-labelledby="models">
          <table class="data">
            <thead>
              <tr>
                <th scope="col">{t("watch.model")}</th>
                <th scope="col">{t("watch.versions")}</th>
                <th scope="col">{t("watch.ready")}</th>
                <th scope="col">{t("watch.inferences")}</th>
                <th scope="col">{t("watch.failures")}</th>
              </tr>
            </thead>
            <tbody>
              {models.value.map((model) => (
                <tr key={model.name}>
                  <th scope="row">{model.name}</th>
                  <td>{model.versions.join(", ")}</td>
                  <td>
                    <span class={model.ready ? "dot good" : "dot bad"} aria-hidden="true" />{" "}
                    {model.ready ? t("watch.yes") : t("watch.no")}
                  </td>
                  <td class="number">{formatNumber(model.n_inferences)}</td>
                  <td class="number">{formatNumber(model.n_failures)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </section>
      <section class="panel" aria-labelledby="load">
        <h2 id="load">{t("watch.load")}</h2>
        {!load.value.length && <p class="hint">{t("watch.quiet")}</p>}
        {load.value.length > 0 && (
          <div class="scroll" tabIndex={0} role="region" aria-labelledby="load">
            <table class="data">
              <thead>
                <tr>
                  <th scope="col">{t("watch.route")}</th>
                  <th scope="col">{t("watch.perSecond")}</th>
                  <th scope="col">{t("watch.median")}</th>
                  <th scope="col">{t("watch.p95")}</th>
                  <th scope="col">{t("watch.failed")}</th>
                </tr>
              </thead>
              <tbody>
                {load.value.map((row) => (
                  <tr key={row.route}>
                    <th scope="row">{row.route}</th>
                    <td class="number">{formatNumber(row.perSecond, 1)}</td>
                    <td class="number">{row.p50 === null ? "–" : formatNumber(row.p50 * 1000, 1)}</td>
                    <td class="number">{row.p95 === null ? "–" : formatNumber(row.p95 * 1000, 1)}</td>
                    <td class="number">{formatNumber(row.failed)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </section>
    </div>
  );
}

/** Return what happened between two readings, for the routes that were called. */
export function loadBetween(before: Sample[], after: Sample[], seconds: number): Load[] {
  const routes = [...new Set(after.map((sample) => sample.labels.route ?? ""))].filter((route) => route.startsWith("/v1"));
  const change = (name: string, accept: (labels: Record<string, string>) => boolean) =>
    sum(after, name, accept) - sum(before, name, accept);
  const rows = routes.map((route): Load => {
    const isRoute = (labels: Record<string, string>) => labels.route === route;
    const buckets = [...new Set(after.filter((each) => each.name.endsWith("_bucket")).map((each) => each.labels.le ?? ""))]
      .map((le): [number, number] => [
        le === "+Inf" ? Infinity : Number(le),
        change("tritone_gateway_request_duration_seconds_bucket", (labels) => isRoute(labels) && labels.le === le),
      ])
      .sort((a, b) => a[0] - b[0]);
    const count = change("tritone_gateway_requests_total", isRoute);
    return {
      route,
      perSecond: count / seconds,
      p50: quantile(buckets, 0.5),
      p95: quantile(buckets, 0.95),
      failed: change("tritone_gateway_requests_total", (labels) => isRoute(labels) && Number(labels.status) >= 400),
    };
  });
  return rows.filter((row) => row.perSecond > 0 && row.route !== "/v1/models");
}

function sum(samples: Sample[], name: string, accept: (labels: Record<string, string>) => boolean): number {
  return samples.reduce((total, each) => total + (each.name === name && accept(each.labels) ? each.value : 0), 0);
}
