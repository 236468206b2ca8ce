/** Panel of operations on the score: infill, harmonise, vary, interpolate. */

import { useState } from "preact/hooks";

import { Button, Select, Slider } from "../../components/controls";
import { PianoRoll } from "../../components/piano-roll";
import { t } from "../../i18n";
import { composing, harmonize, infill, interpolate, twoBars, vary } from "./actions";
import { rememberedBars, score, selection } from "./state";

type Attribute = "note_density" | "pitch_range" | "rhythmic_complexity";

export function ToolsPanel() {
  const disabled = !score.value.notes.length || composing.value;
  return (
    <section class="panel" aria-labelledby="tools">
      <h2 id="tools">{t("write.change")}</h2>
      {!score.value.notes.length && <p class="hint">{t("write.needsScore")}</p>}
      <InfillAndHarmonize disabled={disabled} />
      <Variation disabled={disabled} />
      <Interpolation disabled={disabled} />
    </section>
  );
}

function InfillAndHarmonize({ disabled }: { disabled: boolean }) {
  const bars = selection.value;
  return (
    <div class="group">
      <div class="row">
        <Button disabled={!bars || disabled} onClick={() => void infill()}>
          {bars ? infillText(bars) : t("write.infill")}
        </Button>
        <Button disabled={disabled} onClick={() => void harmonize()}>
          {t("write.harmonize")}
        </Button>
      </div>
      <p class="hint">{t("write.infillHint")}</p>
    </div>
  );
}

function infillText([first, end]: [number, number]): string {
  return end - first === 1
    ? t("write.infillBar", { bar: end })
    : t("write.infillBars", { first: first + 1, last: end });
}

function Variation({ disabled }: { disabled: boolean }) {
  const [attribute, setAttribute] = useState<Attribute>("note_density");
  const [amount, setAmount] = useState(1);
  return (
    <div class="group">
      <Select
        label={t("write.attribute")}
        value={attribute}
        options={[
          ["note_density", t("write.noteDensity")],
          ["pitch_range", t("write.pitchRange")],
          ["rhythmic_complexity", t("write.rhythmicComplexity")],
        ]}
        onChange={setAttribute}
      />
      <Slider
        label={t("write.amount")}
        hint={t("write.amountHint")}
        value={amount}
        min={-3}
        max={3}
        step={0.25}
        digits={2}
        onInput={setAmount}
      />
      <Button disabled={disabled} onClick={() => void vary(attribute, amount)}>
        {t("write.vary")}
      </Button>
    </div>
  );
}

function Interpolation({ disabled }: { disabled: boolean }) {
  const [steps, setSteps] = useState(5);
  const remembered = rememberedBars.value;
  return (
    <div class="group">
      <p class="hint">{t("write.interpolateHint")}</p>
      {remembered && <PianoRoll score={remembered} label={t("write.remembered")} compact />}
      <Slider label={t("write.steps")} value={steps} min={3} max={9} step={1} onInput={setSteps} />
      <div class="row">
        <Button disabled={disabled} onClick={() => (rememberedBars.value = twoBars().score)}>
          {t(remembered ? "write.replaceOther" : "write.setOther")}
        </Button>
        <Button disabled={disabled || !remembered} onClick={() => void interpolate(steps)}>
          {t("write.interpolate")}
        </Button>
      </div>
    </div>
  );
}
