/** What can be done with the score: infill, harmonise, vary, interpolate. */

import { useState } from "preact/hooks";

import { Button, Select, Slider } from "../../components/controls";
import { t } from "../../i18n";
import { harmonize, infill, interpolate, span, vary } from "./actions";
import { other, score, selection } from "./state";

type Attribute = "note_density" | "pitch_range" | "rhythmic_complexity";

export function ToolsPanel() {
  const [attribute, setAttribute] = useState<Attribute>("note_density");
  const [amount, setAmount] = useState(1);
  const [steps, setSteps] = useState(5);
  const isEmpty = !score.value.notes.length;
  const bars = selection.value;
  return (
    <section class="panel" aria-labelledby="tools">
      <h2 id="tools">{t("write.change")}</h2>
      <div class="row">
        <Button disabled={!bars || isEmpty} onClick={() => void infill()}>
          {bars ? t("write.infillBars", { first: bars[0] + 1, last: bars[1] }) : t("write.infill")}
        </Button>
        <Button disabled={isEmpty} onClick={() => void harmonize()}>
          {t("write.harmonize")}
        </Button>
      </div>
      <p class="hint">{t("write.infillHint")}</p>
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
      <Button disabled={isEmpty} onClick={() => void vary(attribute, amount)}>
        {t("write.vary")}
      </Button>
      <div class="row">
        <Button disabled={isEmpty} onClick={() => (other.value = span())}>
          {other.value ? t("write.replaceOther") : t("write.setOther")}
        </Button>
        <Button disabled={isEmpty || !other.value} onClick={() => void interpolate(steps)}>
          {t("write.interpolate")}
        </Button>
      </div>
      <Slider label={t("write.steps")} value={steps} min={3} max={9} step={1} onInput={setSteps} />
      <p class="hint">{t("write.interpolateHint")}</p>
    </section>
  );
}
