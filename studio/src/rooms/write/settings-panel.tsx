/** How the models write. */

import { useEffect } from "preact/hooks";

import { playing } from "../../audio/player";
import { Button, Select, Slider, TextField } from "../../components/controls";
import { t } from "../../i18n";
import { compose, composing, lastSeed, sample, task } from "./actions";
import { chosen, composers, findComposers, streams } from "./models";
import { score, set, setTempo, settings } from "./state";

const KEYS = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"] as const;
const N_SAMPLES = 4;

export function SettingsPanel() {
  const values = settings.value;
  const isEmpty = !score.value.notes.length;
  const models = composers.value;

  useEffect(() => void findComposers(), []);

  return (
    <section class="panel" aria-labelledby="settings">
      <h2 id="settings">{t("write.new")}</h2>
      {models.length > 0 && (
        <Select
          label={t("write.model")}
          value={chosen(values.model, models)}
          options={models.map((name) => [name, streams(name) ? t("write.streams", { name }) : name] as const)}
          onChange={(v) => set("model", v)}
        />
      )}
      <Slider label={t("write.bars")} value={values.bars} min={1} max={64} step={1} onInput={(v) => set("bars", v)} />
      <Slider
        label={t("write.temperature")}
        hint={t("write.temperatureHint")}
        value={values.temperature}
        min={0.1}
        max={2}
        step={0.05}
        digits={2}
        onInput={(v) => set("temperature", v)}
      />
      <Slider
        label={t("write.topP")}
        hint={t("write.topPHint")}
        value={values.topP}
        min={0.1}
        max={1}
        step={0.01}
        digits={2}
        onInput={(v) => set("topP", v)}
      />
      <Slider label={t("write.tempo")} value={values.tempoQpm} min={40} max={220} step={1} onInput={setTempo} />
      <div class="row top-aligned">
        <TextField
          label={t("write.seed")}
          type="number"
          min={0}
          placeholder={t("write.seedHint")}
          value={values.seed}
          onInput={(v) => set("seed", v)}
        />
        <TextField
          label={t("write.style")}
          placeholder={t("write.anyStyle")}
          value={values.style}
          onInput={(v) => set("style", v)}
        />
      </div>
      {lastSeed.value !== null && String(lastSeed.value) !== values.seed && (
        <Button small onClick={() => set("seed", String(lastSeed.value))}>
          {t("write.keepSeed", { seed: lastSeed.value })}
        </Button>
      )}
      <div class="row actions">
        {/* One button, so that it keeps the focus. */}
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
          disabled={isEmpty || composing.value}
          onClick={() => void compose({ fromPrompt: true, aloud: playing.value })}
        >
          {t("write.continue")}
        </Button>
      </div>
      <details class="divided">
        <summary>{t("write.sampling")}</summary>
        <div class="group">
          <div class="row top-aligned">
            <Select
              label={t("write.key")}
              value={values.key}
              options={[["", t("write.any")], ...KEYS.map((key) => [key, key] as const)]}
              onChange={(v) => set("key", v)}
            />
            <Select
              label={t("write.mode")}
              value={values.mode}
              options={[
                ["", t("write.any")],
                ["major", t("write.major")],
                ["minor", t("write.minor")],
              ]}
              onChange={(v) => set("mode", v)}
            />
          </div>
          <Slider
            label={t("write.density")}
            hint={t("write.densityHint")}
            value={values.density}
            min={0}
            max={8}
            step={0.25}
            digits={2}
            onInput={(v) => set("density", v)}
          />
          <Button onClick={() => void sample(N_SAMPLES)}>{t("write.sample", { n: N_SAMPLES })}</Button>
        </div>
      </details>
    </section>
  );
}
