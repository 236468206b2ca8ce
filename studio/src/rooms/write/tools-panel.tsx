/** What can be done with the score: infill, harmonise, vary, interpolate. */

import { useState } from "preact/hooks";

import { Button, Select, Slider } from "../../components/controls";
import { PianoRoll } from "../../components/piano-roll";
import { t } from "../../i18n";
import { composing, harmonize, infill, interpolate, span, vary } from "./actions";
import { other, score, selection } from "./state";

type Attribute = "note_density" | "pitch_range" | "rhythmic_complexity";

export function ToolsPanel() {
  const off = !score.value.notes.length || composing.value;
  return (
    <section class="panel" aria-labelledby="tools">
      <h2 id="tools">{t("write.change")}</h2>
      {!score.value.notes.length && <p class="hint">{t("write.needsScore")}</p>}
      <Voices off={off} />
      <Variation off={off} />
      <Interpolation off={off} />
    </section>
  );
}

function Voices({ off }: { off: boolean }) {
  const bars = selection.value;
  return (
    <div class="group">
      <div class="row">
        <Button disabled={!bars || off} onClick={() => void infill()}>
          {bars ? infillText(bars) : t("write.infill")}
        </Button>
        <Button disabled={off} onClick={() => void harmonize()}>
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

function Variation({ off }: { off: boolean }) {
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
      <Button disabled={off} onClick={() => void vary(attribute, amount)}>
        {t("write.vary")}
      </Button>
    </div>
  );
}

function Interpolation({ off }: { off: boolean }) {
  const [steps, setSteps] = useState(5);
  const remembered = other.value;
  return (
    <div class="group">
      <p class="hint">{t("write.interpolateHint")}</p>
      {remembered && <PianoRoll score={remembered} label={t("write.remembered")} compact />}
      <Slider label={t("write.steps")} value={steps} min={3} max={9} step={1} onInput={setSteps} />
      <div class="row">
        <Button disabled={off} onClick={() => (other.value = span().score)}>
          {t(remembered ? "write.replaceOther" : "write.setOther")}
        </Button>
        <Button disabled={off || !remembered} onClick={() => void interpolate(steps)}>
          {t("write.interpolate")}
        </Button>
      </div>
    </div>
  );
}
