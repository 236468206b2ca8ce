/** The pieces of the last interpolation or sampling: play each one, and keep one. */

import { Button } from "../../components/controls";
import { PianoRoll } from "../../components/piano-roll";
import { play, stop } from "../../audio/player";
import { t } from "../../i18n";
import { choices } from "./actions";
import { change } from "./state";

export function Choices() {
  if (!choices.value.length) return null;
  return (
    <section class="panel" aria-labelledby="choices">
      <div class="row spread">
        <h2 id="choices">{t("write.choices")}</h2>
        <Button onClick={() => (choices.value = [])}>{t("write.close")}</Button>
      </div>
      <ol class="choices">
        {choices.value.map((each, index) => (
          <li key={index}>
            <PianoRoll score={each} position={0} selection={null} label={t("write.choice", { n: index + 1 })} />
            <div class="row">
              <Button
                label={t("write.playChoice", { n: index + 1 })}
                onClick={() => void play(() => each).catch(() => undefined)}
              >
                {t("play.play")}
              </Button>
              <Button
                label={t("write.useChoice", { n: index + 1 })}
                onClick={() => {
                  stop();
                  change(each);
                }}
              >
                {t("write.use")}
              </Button>
            </div>
          </li>
        ))}
      </ol>
    </section>
  );
}
