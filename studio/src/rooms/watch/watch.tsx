/** Room Watch: models with versions and readiness, and requests per second with latency. */

import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";

import { api, type Models } from "../../api/client";
import { messageOf } from "../../components/status";
import { formatNumber, t } from "../../i18n";
import { loadBetween, parseMetrics, type Load, type Sample } from "./metrics";

const REFRESH_INTERVAL_MS = 2_000;
const LOAD_WINDOW_MS = 10_000;

interface Reading {
  atMs: number;
  samples: Sample[];
}

const models = signal<Models["models"] | null>(null);
const modelsError = signal<string | null>(null);
const load = signal<Load[] | null>(null);
const loadError = signal<string | null>(null);
let readings: Reading[] = [];

/** Request the models and the metrics; if one fails, for example for lack of a scope, the other is still shown. */
async function refresh(abort: AbortSignal): Promise<void> {
  const [found, text] = await Promise.allSettled([api.models({ signal: abort }), api.metrics({ signal: abort })]);
  if (abort.aborted) return;
  if (found.status === "fulfilled") models.value = found.value.models;
  modelsError.value = found.status === "rejected" ? messageOf(found.reason) : null;
  loadError.value = text.status === "rejected" ? messageOf(text.reason) : null;
  if (text.status === "rejected") {
    readings = []; // the counters may restart at 0
    return;
  }
  const now: Reading = { atMs: performance.now(), samples: parseMetrics(text.value) };
  readings = [...readings.filter((each) => now.atMs - each.atMs <= LOAD_WINDOW_MS), now];
  const first = readings[0];
  if (first && first !== now) load.value = loadBetween(first.samples, now.samples, (now.atMs - first.atMs) / 1000);
}

export function Watch() {
  useEffect(() => {
    const controller = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    const loop = async () => {
      if (!document.hidden) await refresh(controller.signal);
      if (!controller.signal.aborted) timer = setTimeout(() => void loop(), REFRESH_INTERVAL_MS);
    };
    void loop();
    return () => {
      controller.abort();
      clearTimeout(timer);
      readings = [];
    };
  }, []);
  return (
    <div class="room">
      <ModelTable />
      <LoadTable />
    </div>
  );
}

function ModelTable() {
  return (
    <section class="panel" aria-labelledby="models">
      <h2 id="models">{t("watch.models")}</h2>
      <Problem text={modelsError.value} />
      {models.value === null && !modelsError.value && <p class="hint">{t("app.loading")}</p>}
      {models.value?.length === 0 && <p class="hint">{t("watch.noModels")}</p>}
      {models.value !== null && models.value.length > 0 && (
        <Table
          labelledBy="models"
          head={[
            t("watch.model"),
            t("watch.versions"),
            t("watch.ready"),
            t("watch.inferences"),
            t("watch.failures"),
          ]}
          nText={3}
        >
          {models.value.map((model) => (
            <tr key={model.name}>
              <th scope="row">{breakable(model.name)}</th>
              <td>{model.versions.join(", ")}</td>
              <td>
                <span class={model.ready ? "dot good" : "dot bad"} aria-hidden="true" />{" "}
                {model.ready ? t("watch.yes") : t("watch.no")}
              </td>
              <td class="number">{formatNumber(model.n_inferences)}</td>
              <td class="number">{formatNumber(model.n_failures)}</td>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}

function LoadTable() {
  const milliseconds = (seconds: number | null) => (seconds === null ? "–" : formatNumber(seconds * 1000, 1));
  return (
    <section class="panel" aria-labelledby="load">
      <h2 id="load">{t("watch.load", { seconds: LOAD_WINDOW_MS / 1000 })}</h2>
      <Problem text={loadError.value} />
      {load.value === null && !loadError.value && <p class="hint">{t("watch.measuring")}</p>}
      {load.value?.length === 0 && <p class="hint">{t("watch.quiet")}</p>}
      {load.value !== null && load.value.length > 0 && (
        <Table
          labelledBy="load"
          head={[t("watch.route"), t("watch.perSecond"), t("watch.median"), t("watch.p95"), t("watch.failed")]}
          nText={1}
        >
          {load.value.map((row) => (
            <tr key={row.route}>
              <th scope="row">{breakable(row.route)}</th>
              <td class="number">{formatNumber(row.perSecond, 1)}</td>
              <td class="number">{milliseconds(row.p50)}</td>
              <td class="number">{milliseconds(row.p95)}</td>
              <td class="number">{formatNumber(row.failed)}</td>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}

interface TableProps {
  labelledBy: string;
  head: readonly string[];
  /** Number of columns with text; those with numbers follow. */
  nText: number;
  children: ComponentChildren;
}

/** A table that scrolls sideways where the screen is narrow. */
function Table({ labelledBy, head, nText, children }: TableProps) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-labelledby={labelledBy}>
      <table class="data">
        <thead>
          <tr>
            {head.map((title, column) => (
              <th key={title} scope="col" class={column < nText ? undefined : "number"}>
                {title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

/** Return a name that may be broken behind its underscores and slashes. */
function breakable(name: string): ComponentChildren {
  return name.split(/(?<=[_/])/).map((part, index) => [index > 0 && <wbr />, part]);
}

function Problem({ text }: { text: string | null }) {
  return text === null ? null : (
    <p class="error" role="alert">
      {text}
    </p>
  );
}
