/** Room Listen: the waveform of a recording and its classification over time. */

import { useEffect } from "preact/hooks";

import type { Classification } from "../../api/client";
import { BarChart } from "../../components/bar-chart";
import { Button } from "../../components/controls";
import { FileDrop } from "../../components/file-drop";
import { Status } from "../../components/status";
import { formatNumber, t } from "../../i18n";
import { Recorder } from "./recorder";
import { analyse, analysis, discard, isUnstored, positionS, recording, restore, result, seek } from "./state";
import { Timeline } from "./timeline";
import { Waveform } from "./waveform";

export function Listen() {
  useEffect(() => void restore(), []);
  const found = result.value;
  const current = recording.value;
  return (
    <div class="room">
      <section class="panel" aria-label={t("listen.source")}>
        <div class="row">
          <FileDrop
            label={t("listen.drop")}
            hint={t("listen.formats")}
            accept="audio/*,.flac,.ogg,.opus,.aiff,.w64,.caf"
            onFile={(file) => void analyse(file, file.name)}
          />
          <Recorder onRecording={(file) => void analyse(file, t("listen.microphone"))} />
        </div>
        <Status task={analysis} busyText={t("listen.busy")} cancel />
      </section>
      {!current && <p class="hint">{t("listen.empty")}</p>}
      {current && (
        <section class="panel" aria-label={t("listen.recording")}>
          {found && (
            <p class="verdict">
              {t("listen.label")} <strong>{found.label}</strong>{" "}
              <span class="time">{formatNumber(100 * (found.probabilities[found.label] ?? 0))} %</span>
            </p>
          )}
          <Waveform file={current.file} name={current.name} />
          {found && (
            <Timeline
              result={found}
              positionS={positionS.value}
              onSeek={(timeS) => {
                positionS.value = timeS;
                seek.value = { timeS };
              }}
            />
          )}
          <div class="row spread">
            <p class="hint">{t(isUnstored.value ? "listen.unstored" : "listen.kept")}</p>
            <Button small onClick={() => void discard()}>
              {t("listen.discard")}
            </Button>
          </div>
        </section>
      )}
      {found && <Details found={found} />}
    </div>
  );
}

function Details({ found }: { found: Classification }) {
  return (
    <>
      <section class="panel columns" aria-label={t("listen.details")}>
        <BarChart title={t("listen.genres")} values={found.probabilities} full={1} />
        {found.emotions && <BarChart title={t("listen.emotions")} values={found.emotions} most={9} full={1} />}
        {found.tags && <BarChart title={t("listen.tags")} values={found.tags} most={12} full={1} />}
      </section>
      {found.notes.length > 0 && (
        <section class="panel" aria-labelledby="remarks">
          <h2 id="remarks">{t("listen.notes")}</h2>
          <ul>
            {found.notes.map((note) => (
              <li key={note}>{note}</li>
            ))}
          </ul>
        </section>
      )}
      <p class="hint">
        {t("listen.model", {
          model: found.model,
          version: found.model_version,
          seconds: formatNumber(found.duration_s, 1),
        })}
      </p>
    </>
  );
}
