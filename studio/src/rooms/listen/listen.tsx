/** A recording: its waveform, and what the model hears in it over time. */

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import WaveSurfer from "wavesurfer.js";

import { api, type Classification } from "../../api/client";
import { Bars } from "../../components/bars";
import { Button } from "../../components/controls";
import { FileDrop } from "../../components/file-drop";
import { newTask, Status } from "../../components/status";
import { formatTime, t } from "../../i18n";
import { Recorder } from "./recorder";
import { Timeline } from "./timeline";

// Outside the component, so that another room and back does not lose the recording.
const recording = signal<{ file: Blob; name: string } | null>(null);
const result = signal<Classification | null>(null);
const positionS = signal(0);
const isPlaying = signal(false);
const analysis = newTask();

async function analyse(file: Blob, name: string): Promise<void> {
  recording.value = { file, name };
  result.value = null;
  positionS.value = 0;
  await analysis.run(async (abort) => {
    result.value = await api.classify(file, { signal: abort });
  });
}

export function Listen() {
  const found = result.value;
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
        <Status task={analysis} busyText={t("listen.busy")} />
      </section>
      {recording.value && <Waveform file={recording.value.file} name={recording.value.name} />}
      {found && (
        <>
          <section class="panel" aria-label={t("listen.result")}>
            <p class="verdict">
              {t("listen.label")} <strong>{found.label}</strong>
            </p>
            <Timeline
              result={found}
              positionS={positionS.value}
              onSeek={(time) => {
                positionS.value = time;
                seek.value = { time };
              }}
            />
          </section>
          <section class="panel columns" aria-label={t("listen.details")}>
            <Bars title={t("listen.genres")} values={found.probabilities} full={1} />
            {found.emotions && <Bars title={t("listen.emotions")} values={found.emotions} most={9} full={1} />}
            {found.tags && <Bars title={t("listen.tags")} values={found.tags} most={12} full={1} />}
          </section>
          {found.notes.length > 0 && (
            <section class="panel" aria-label={t("listen.notes")}>
              <ul>
                {found.notes.map((note) => (
                  <li key={note}>{note}</li>
                ))}
              </ul>
            </section>
          )}
          <p class="hint">
            {t("listen.model", { model: found.model, version: found.model_version, seconds: found.duration_s.toFixed(1) })}
          </p>
        </>
      )}
      {!recording.value && <p class="hint">{t("listen.empty")}</p>}
    </div>
  );
}

/** A moment to play from, as an object so that the same moment can be asked for twice. */
const seek = signal<{ time: number } | null>(null);

function Waveform({ file, name }: { file: Blob; name: string }) {
  const box = useRef<HTMLDivElement>(null);
  const surfer = useRef<WaveSurfer | null>(null);

  useEffect(() => {
    if (!box.current) return;
    const style = getComputedStyle(document.documentElement);
    const wave = WaveSurfer.create({
      container: box.current,
      height: 96,
      waveColor: style.getPropertyValue("--wave").trim(),
      progressColor: style.getPropertyValue("--accent").trim(),
      cursorColor: style.getPropertyValue("--text").trim(),
      normalize: true,
      cspNonce: document.querySelector<HTMLMetaElement>("meta[name=csp-nonce]")?.content,
    });
    surfer.current = wave;
    wave.on("timeupdate", (time) => (positionS.value = time));
    wave.on("play", () => (isPlaying.value = true));
    wave.on("pause", () => (isPlaying.value = false));
    wave.on("finish", () => (isPlaying.value = false));
    void wave.loadBlob(file).catch(() => undefined); // the browser may not decode what the model reads
    return () => {
      wave.destroy();
      isPlaying.value = false;
    };
  }, [file]);

  useEffect(() => {
    if (seek.value && surfer.current) {
      surfer.current.setTime(seek.value.time);
      void surfer.current.play();
    }
  }, [seek.value]);

  return (
    <section class="panel" aria-label={t("listen.recording")}>
      <div class="row spread">
        <strong class="clip">{name}</strong>
        <Button
          primary
          pressed={isPlaying.value}
          onClick={() => void surfer.current?.playPause()}
        >
          {isPlaying.value ? t("play.pause") : t("play.play")}
        </Button>
        <span class="time" role="timer" aria-live="off">
          {formatTime(positionS.value)}
        </span>
      </div>
      <div ref={box} class="wave" />
    </section>
  );
}
