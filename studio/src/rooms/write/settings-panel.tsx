/** How the models write. */

import { Button, Select, Slider, TextField } from "../../components/controls";
import { t } from "../../i18n";
import { compose, composing, sample, task } from "./actions";
import { score, set, settings } from "./state";

const KEYS = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"] as const;
const N_SAMPLES = 4;

export function SettingsPanel() {
  const values = settings.value;
  return (
    <section class="panel" aria-labelledby="settings">
      <h2 id="settings">{t("write.new")}</h2>
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
        value={values.topP}
        min={0.1}
        max={1}
        step={0.01}
        digits={2}
        onInput={(v) => set("topP", v)}
      />
      <Slider
        label={t("write.tempo")}
        value={values.tempoQpm}
        min={40}
        max={220}
        step={1}
        onInput={(v) => set("tempoQpm", v)}
      />
      <div class="row">
        <TextField
          label={t("write.seed")}
          type="number"
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
      <div class="row">
        <Button primary onClick={() => void compose(false)}>
          {t("write.compose")}
        </Button>
        <Button disabled={!score.value.notes.length} onClick={() => void compose(true)}>
          {t("write.continue")}
        </Button>
        {composing.value && <Button onClick={() => task.abort()}>{t("write.stop")}</Button>}
      </div>
      <details>
        <summary>{t("write.sampling")}</summary>
        <div class="row">
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
      </details>
    </section>
  );
}
