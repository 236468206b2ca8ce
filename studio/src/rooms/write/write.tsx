/** Writing: compose, edit, infill, harmonise, vary and interpolate, with sound, piano roll and engraved score. */

import { useEffect, useState } from "preact/hooks";

import { Button, Select } from "../../components/controls";
import { Engraving } from "../../components/engraving";
import { FileDrop } from "../../components/file-drop";
import { PianoRoll } from "../../components/piano-roll";
import { Status } from "../../components/status";
import { loadingSound, play, playing, position, sound, stop } from "../../audio/player";
import { formatNumber, formatTime, t } from "../../i18n";
import { durationS, EMPTY, secondsPerFrame } from "../../music/notes";
import { composing, download, firstBarMs, open, task } from "./actions";
import { Choices } from "./choices";
import { SettingsPanel } from "./settings-panel";
import { canRedo, canUndo, change, python, redo, score, selection, undo } from "./state";
import { ToolsPanel } from "./tools-panel";

const FORMATS = {
  mid: "audio/midi",
  musicxml: "application/vnd.recordare.musicxml+xml",
  wav: "audio/wav",
} as const;
type Format = keyof typeof FORMATS;

export function Write() {
  const [view, setView] = useState<"roll" | "score">("roll");
  const [format, setFormat] = useState<Format>("mid");
  const [problem, setProblem] = useState<string | null>(null);
  const current = score.value;

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (/^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return;
      const command = event.ctrlKey || event.metaKey;
      if (command && event.key.toLowerCase() === "z") {
        event.preventDefault();
        if (event.shiftKey) redo();
        else undo();
      } else if (event.key === " " && target.tagName !== "BUTTON" && target.tagName !== "SUMMARY") {
        event.preventDefault();
        togglePlay();
      }
    };
    addEventListener("keydown", onKey);
    return () => {
      removeEventListener("keydown", onKey);
      stop();
    };
  }, []);

  const togglePlay = (from = 0) => {
    if (playing.value) {
      stop();
      return;
    }
    setProblem(null);
    play(
      () => score.value,
      from,
      () => !composing.value,
    ).catch((error: unknown) => setProblem(t("play.noSound", { why: error instanceof Error ? error.message : "" })));
  };

  return (
    <div class="room two">
      <div class="side">
        <SettingsPanel />
        <ToolsPanel />
      </div>
      <div class="stack">
        <section class="panel" aria-label={t("write.score")}>
          <div class="row toolbar">
            <Button primary pressed={playing.value} disabled={!current.notes.length} onClick={() => togglePlay()}>
              {loadingSound.value ? t("play.loading") : playing.value ? t("play.stop") : t("play.play")}
            </Button>
            <span class="time">
              {formatTime(position.value * secondsPerFrame(current))} / {formatTime(durationS(current))}
            </span>
            <Button disabled={!canUndo.value} onClick={undo}>
              {t("write.undo")}
            </Button>
            <Button disabled={!canRedo.value} onClick={redo}>
              {t("write.redo")}
            </Button>
            <Button disabled={!current.notes.length} onClick={() => change(EMPTY)}>
              {t("write.clear")}
            </Button>
            <div class="tabs" role="group" aria-label={t("write.view")}>
              <Button pressed={view === "roll"} onClick={() => setView("roll")}>
                {t("write.roll")}
              </Button>
              <Button pressed={view === "score"} onClick={() => setView("score")}>
                {t("write.engraved")}
              </Button>
            </div>
          </div>
          <Status task={task} busyText={t(composing.value ? "write.composing" : "write.busy")} />
          {problem && (
            <p class="error" role="alert">
              {problem}
            </p>
          )}
          {view === "roll" ? (
            <>
              <PianoRoll
                score={current}
                position={position.value}
                selection={selection.value}
                label={t("write.roll")}
                onChange={(next, pitch) => {
                  if (next.notes.length > current.notes.length) void sound(pitch).catch(() => undefined);
                  change(next);
                }}
                onSelect={(bars) => (selection.value = bars)}
                onSeek={(frame) => togglePlay(frame)}
              />
              <p class="hint">{t("write.rollHint")}</p>
            </>
          ) : (
            <Engraving score={current} label={t("write.engraved")} />
          )}
          {firstBarMs.value !== null && (
            <p class="hint" data-first-bar-ms={firstBarMs.value}>
              {t("write.firstBar", { ms: formatNumber(firstBarMs.value) })}
            </p>
          )}
        </section>
        <Choices />
        <section class="panel" aria-label={t("write.files")}>
          <div class="row">
            <FileDrop
              label={t("write.open")}
              hint={t("write.formats")}
              accept=".mid,.midi,.musicxml,.mxl,.xml,.abc"
              onFile={(file) => void open(file)}
            />
            <div class="row end">
              <Select
                label={t("write.format")}
                value={format}
                options={[
                  ["mid", "MIDI"],
                  ["musicxml", "MusicXML"],
                  ["wav", "WAV"],
                ]}
                onChange={setFormat}
              />
              <Button disabled={!current.notes.length} onClick={() => void download(FORMATS[format], format)}>
                {t("write.download")}
              </Button>
            </div>
          </div>
          {python.value && (
            <div class="code">
              <code>{python.value}</code>
              <Button onClick={() => void navigator.clipboard.writeText(python.value)}>{t("write.copy")}</Button>
            </div>
          )}
        </section>
      </div>
    </div>
  );
}
