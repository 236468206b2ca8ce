/** Settings of new music, and the buttons that compose it. */

import { playing } from "../../audio/player";
import { Button, Select, Slider, TextField } from "../../components/controls";
import { t, type Key } from "../../i18n";
import { ENSEMBLES, type Ensemble } from "../../music/instruments";
import { compose, composing, lastSeed, sample, task } from "./actions";
import { chosen, composers, streams } from "./models";
import { HIGHEST_QPM, LOWEST_QPM, score, set, settings, setTempo, showsMore } from "./state";

const KEYS = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"] as const;
const ENSEMBLE_NAMES = Object.keys(ENSEMBLES) as Ensemble[];
const N_SAMPLES = 4;

interface Range {
  label: Key;
  hint?: Key;
  zero?: Key;
  min: number;
  max: number;
  step: number;
  digits?: number;
}

const RANGES = {
  bars: { label: "write.bars", min: 1, max: 64, step: 1 },
  temperature: {
    label: "write.temperature",
    hint: "write.temperatureHint",
    zero: "write.ofModel",
    min: 0,
    max: 2,
    step: 0.05,
    digits: 2,
  },
  topP: { label: "write.topP", hint: "write.topPHint", min: 0.1, max: 1, step: 0.01, digits: 2 },
  tempoQpm: { label: "write.tempo", min: LOWEST_QPM, max: HIGHEST_QPM, step: 1 },
  density: { label: "write.density", hint: "write.densityHint", min: 0, max: 8, step: 0.25, digits: 2 },
} satisfies Record<string, Range>;

function SettingSlider({ name }: { name: keyof typeof RANGES }) {
  const { label, hint, zero, ...range }: Range = RANGES[name];
  return (
    <Slider
      label={t(label)}
      hint={hint && t(hint)}
      zero={zero && t(zero)}
      value={settings.value[name]}
      onInput={(value) => (name === "tempoQpm" ? setTempo(value) : set(name, value))}
      {...range}
    />
  );
}

export function SettingsPanel() {
  const models = composers.value;
  return (
    <section class="panel" aria-labelledby="settings">
      <h2 id="settings">{t("write.new")}</h2>
      {models.length > 0 && (
        <Select
          label={t("write.model")}
          value={chosen(settings.value.model, models)}
          options={models.map((name) => [name, streams(name) ? t("write.streams", { name }) : name] as const)}
          onChange={(value) => set("model", value)}
        />
      )}
      <SettingSlider name="bars" />
      <ComposeButtons />
      <details
        class="divided"
        open={showsMore.value}
        onToggle={(event) => (showsMore.value = event.currentTarget.open)}
      >
        <summary>{t("write.more")}</summary>
        <SettingSlider name="temperature" />
        <SettingSlider name="topP" />
        <SettingSlider name="tempoQpm" />
        <Seed />
      </details>
      <Conditions />
      <IdeaSettings />
    </section>
  );
}

function ComposeButtons() {
  return (
    <div class="row compose">
      {/* One button for both actions, so that it keeps the focus. */}
      <Button
        primary
        onClick={() => (composing.value ? task.abort() : void compose({ fromPrompt: false, aloud: false }))}
      >
        {t(composing.value ? "write.stop" : "write.compose")}
      </Button>
      <Button disabled={composing.value} onClick={() => void compose({ fromPrompt: false, aloud: true })}>
        {t("write.composeAloud")}
      </Button>
      <Button
        disabled={!score.value.notes.length || composing.value}
        onClick={() => void compose({ fromPrompt: true, aloud: playing.value })}
      >
        {t("write.continue")}
      </Button>
    </div>
  );
}

function Seed() {
  const { seed, style } = settings.value;
  return (
    <>
      <div class="row top-aligned">
        <TextField
          label={t("write.seed")}
          type="number"
          min={0}
          placeholder={t("write.seedHint")}
          value={seed}
          onInput={(value) => set("seed", value)}
        />
        <TextField
          label={t("write.style")}
          placeholder={t("write.anyStyle")}
          value={style}
          onInput={(value) => set("style", value)}
        />
      </div>
      <Select
        label={t("write.instruments")}
        value={settings.value.instruments}
        options={[["", t("write.ofStyle")], ...ENSEMBLE_NAMES.map((name) => [name, t(`ensemble.${name}`)] as const)]}
        onChange={(value) => set("instruments", value)}
      />
      {lastSeed.value !== null && String(lastSeed.value) !== seed && (
        <Button small onClick={() => set("seed", String(lastSeed.value))}>
          {t("write.keepSeed", { seed: lastSeed.value })}
        </Button>
      )}
    </>
  );
}

/** Key, density and form of compositions. */
function Conditions() {
  const { pieceKey, pieceMode, pieceDensity, structure, ending } = settings.value;
  return (
    <details class="divided">
      <summary>{t("write.conditions")}</summary>
      <div class="group">
        <KeyAndMode
          tonic={pieceKey}
          mode={pieceMode}
          onTonic={(value) => set("pieceKey", value)}
          onMode={(value) => set("pieceMode", value)}
        />
        <div class="row top-aligned">
          <Select
            label={t("write.pieceDensity")}
            value={pieceDensity}
            options={[
              ["", t("write.any")],
              ["low", t("write.low")],
              ["medium", t("write.medium")],
              ["high", t("write.high")],
            ]}
            onChange={(value) => set("pieceDensity", value)}
          />
          <Select
            label={t("write.ending")}
            value={ending}
            options={[
              ["", t("write.ends")],
              ["open", t("write.openEnd")],
            ]}
            onChange={(value) => set("ending", value)}
          />
        </div>
        <TextField
          label={t("write.structure")}
          placeholder={t("write.structureHint")}
          value={structure}
          onInput={(value) => set("structure", value)}
        />
      </div>
    </details>
  );
}

type Mode = "" | "major" | "minor";

interface KeyAndModeProps {
  tonic: string;
  mode: Mode;
  onTonic: (value: string) => void;
  onMode: (value: Mode) => void;
}

function KeyAndMode({ tonic, mode, onTonic, onMode }: KeyAndModeProps) {
  return (
    <div class="row top-aligned">
      <Select
        label={t("write.key")}
        value={tonic}
        options={[["", t("write.any")], ...KEYS.map((each) => [each, each] as const)]}
        onChange={onTonic}
      />
      <Select
        label={t("write.mode")}
        value={mode}
        options={[
          ["", t("write.any")],
          ["major", t("write.major")],
          ["minor", t("write.minor")],
        ]}
        onChange={onMode}
      />
    </div>
  );
}

/** Settings of two-bar ideas: key, mode and density. */
function IdeaSettings() {
  const { key, mode } = settings.value;
  return (
    <details class="divided">
      <summary>{t("write.sampling")}</summary>
      <div class="group">
        <KeyAndMode
          tonic={key}
          mode={mode}
          onTonic={(value) => set("key", value)}
          onMode={(value) => set("mode", value)}
        />
        <SettingSlider name="density" />
        <Button onClick={() => void sample(N_SAMPLES)}>{t("write.sample", { n: N_SAMPLES })}</Button>
      </div>
    </details>
  );
}
