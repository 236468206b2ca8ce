/** Panel of the score: playback, undo, piano roll and music notation. */

import { useState } from "preact/hooks";

import { loadingSound, playing, playNote, position, stop } from "../../audio/player";
import { Button, Select } from "../../components/controls";
import { Engraving } from "../../components/engraving";
import { PianoRoll } from "../../components/piano-roll";
import { Status } from "../../components/status";
import { formatNumber, formatTime, t } from "../../i18n";
import { durationS, EMPTY, secondsPerFrame } from "../../music/notes";
import { composing, firstBarMs, playScore, scorePlays, soundError, task } from "./actions";
import { canRedo, canUndo } from "./history";
import { togglePlay } from "./shortcuts";
import { change, noteLength, redo, score, selection, settings, undo } from "./state";

const NOTE_LENGTHS = ["0.25", "0.5", "1", "2", "4"] as const;
type NoteLength = (typeof NOTE_LENGTHS)[number];

export function ScorePanel() {
  const [view, setView] = useState<"roll" | "score">("roll");
  return (
    <section class="panel" aria-labelledby="score">
      <h2 id="score" class="visually-hidden">
        {t("write.score")}
      </h2>
      <div class="row toolbar">
        <Transport />
        <Button disabled={!canUndo.value || composing.value} onClick={undo}>
          {t("write.undo")}
        </Button>
        <Button disabled={!canRedo.value || composing.value} onClick={redo}>
          {t("write.redo")}
        </Button>
        <Button disabled={!score.value.notes.length || composing.value} onClick={clear}>
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
      <Status task={task} busyText={t(composing.value ? "write.composing" : "write.busy")} cancel />
      {soundError.value && (
        <p class="error" role="alert">
          {soundError.value}
        </p>
      )}
      {view === "roll" ? <Roll /> : <Engraving score={score.value} label={t("write.engraved")} />}
      {firstBarMs.value !== null && (
        <p class="hint" data-first-bar-ms={firstBarMs.value}>
          {t("write.firstBar", { ms: formatNumber(firstBarMs.value) })}
        </p>
      )}
    </section>
  );
}

function clear(): void {
  stop();
  change({ ...EMPTY, tempoQpm: settings.value.tempoQpm });
}

function Transport() {
  const now = scorePlays.value ? position.value * secondsPerFrame(score.value) : 0;
  return (
    <>
      <Button primary pressed={playing.value} disabled={!score.value.notes.length} onClick={togglePlay}>
        {t(loadingSound.value ? "play.loading" : playing.value ? "play.stop" : "play.play")}
      </Button>
      <span class="time" role="timer" aria-live="off">
        {formatTime(now)} / {formatTime(durationS(score.value))}
      </span>
    </>
  );
}

function Roll() {
  const current = score.value;
  const edit = (next: typeof current, pitch: number) => {
    if (next.notes.length > current.notes.length) void playNote(pitch).catch(() => undefined);
    change(next);
  };
  return (
    <>
      <PianoRoll
        score={current}
        position={scorePlays.value ? position.value : 0}
        selection={selection.value}
        label={t("write.roll")}
        noteLength={noteLength.value * current.framesPerQuarter}
        follow={composing.value}
        onChange={composing.value ? undefined : edit}
        onSelect={(bars) => (selection.value = bars)}
        onSeek={playScore}
      />
      <div class="row roll-foot">
        <Select<NoteLength>
          label={t("write.noteLength")}
          value={NOTE_LENGTHS.find((each) => Number(each) === noteLength.value) ?? "0.5"}
          options={NOTE_LENGTHS.map((each) => [each, t(`noteLength.${each}`)] as const)}
          onChange={(value) => (noteLength.value = Number(value))}
        />
        <p class="hint">{t(current.notes.length ? "write.rollHint" : "write.rollEmpty")}</p>
      </div>
    </>
  );
}
