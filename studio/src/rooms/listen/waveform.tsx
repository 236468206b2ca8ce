/** The waveform of a recording, with playback and a cursor. */

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import WaveSurfer from "wavesurfer.js";

import { Button } from "../../components/controls";
import { formatTime, t } from "../../i18n";
import { isDark } from "../../state/theme";
import { positionS, seek } from "./state";

const ARROW_KEY_STEP_S = 3;

const isPlaying = signal(false);
/** Whether the browser has decoded the recording; it may not support a format that the server reads. */
const decoded = signal<"pending" | "yes" | "no">("pending");

export function Waveform({ file, name }: { file: Blob; name: string }) {
  const box = useRef<HTMLDivElement>(null);
  const surfer = useRef<WaveSurfer | null>(null);

  useEffect(() => {
    if (!box.current) return;
    const wave = WaveSurfer.create({
      container: box.current,
      height: 96,
      normalize: true,
      cspNonce: document.querySelector<HTMLMetaElement>("meta[name=csp-nonce]")?.content,
      ...colours(),
    });
    let isDestroyed = false;
    surfer.current = wave;
    decoded.value = "pending";
    wave.on("timeupdate", (time) => (positionS.value = time));
    wave.on("play", () => (isPlaying.value = true));
    wave.on("pause", () => (isPlaying.value = false));
    wave.on("finish", () => (isPlaying.value = false));
    const settle = (state: "yes" | "no") => {
      if (!isDestroyed) decoded.value = state;
    };
    wave.loadBlob(file).then(
      () => settle("yes"),
      () => settle("no"),
    );
    return () => {
      isDestroyed = true;
      wave.destroy();
      surfer.current = null;
      isPlaying.value = false;
    };
  }, [file]);

  useEffect(() => surfer.current?.setOptions(colours()), [isDark.value]);

  useEffect(() => {
    if (seek.value && surfer.current && decoded.value === "yes") {
      surfer.current.setTime(seek.value.timeS);
      void surfer.current.play();
      seek.value = null;
    }
  }, [seek.value, decoded.value]);

  const onKey = (event: KeyboardEvent) => {
    const wave = surfer.current;
    const step = { ArrowLeft: -ARROW_KEY_STEP_S, ArrowRight: ARROW_KEY_STEP_S, Home: -Infinity, End: Infinity }[event.key];
    if (!wave || (step === undefined && event.key !== " ")) return;
    event.preventDefault();
    if (step === undefined) void wave.playPause();
    else wave.setTime(Math.min(Math.max(wave.getCurrentTime() + step, 0), wave.getDuration()));
  };

  const durationS = decoded.value === "yes" ? (surfer.current?.getDuration() ?? 0) : 0;
  return (
    <>
      <div class="row">
        <Button
          primary
          disabled={decoded.value !== "yes"}
          pressed={isPlaying.value}
          onClick={() => void surfer.current?.playPause()}
        >
          {t(isPlaying.value ? "play.pause" : "play.play")}
        </Button>
        <span class="time" role="timer" aria-live="off">
          {formatTime(positionS.value)}
          {durationS > 0 && ` / ${formatTime(durationS)}`}
        </span>
        <strong class="clip">{name}</strong>
      </div>
      <div
        ref={box}
        class="wave"
        role="slider"
        tabIndex={0}
        aria-label={t("listen.position")}
        aria-valuemin={0}
        aria-valuemax={Math.round(durationS)}
        aria-valuenow={Math.round(positionS.value)}
        aria-valuetext={formatTime(positionS.value)}
        onKeyDown={onKey}
      />
      {decoded.value === "no" && <p class="hint">{t("listen.notDecoded")}</p>}
    </>
  );
}

/** Return the colours of the current theme in a form that a canvas can use; the custom properties have both themes. */
function colours() {
  const probe = document.body.appendChild(document.createElement("span"));
  const value = (name: string) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const found = { waveColor: value("--wave"), progressColor: value("--accent"), cursorColor: value("--text") };
  probe.remove();
  return found;
}
