/** The pieces of the last interpolation or sampling: play each one, and keep one. */

import { play, playingId, position, stop } from "../../audio/player";
import { Button } from "../../components/controls";
import { PianoRoll } from "../../components/piano-roll";
import { t } from "../../i18n";
import type { Score } from "../../music/notes";
import { failedSound, soundError } from "./actions";
import { change, choices, instrumented } from "./state";

export function Choices() {
  if (!choices.value.length) return null;
  const close = () => {
    if (playingId.value?.startsWith("idea-")) stop();
    choices.value = [];
  };
  return (
    <section class="panel" aria-labelledby="choices">
      <div class="row spread">
        <h2 id="choices">{t("write.choices")}</h2>
        <Button small onClick={close}>{t("write.close")}</Button>
      </div>
      <ol class="choices">
        {choices.value.map((each, index) => (
          <Choice key={index} score={each} number={index + 1} />
        ))}
      </ol>
    </section>
  );
}

function Choice({ score, number }: { score: Score; number: number }) {
  const id = `idea-${number}`;
  const plays = playingId.value === id;
  const listen = (from = 0) => {
    soundError.value = null;
    play({ id, score: () => instrumented(score), from }).catch(failedSound);
  };
  return (
    <li>
      <PianoRoll
        score={score}
        position={plays ? position.value : 0}
        label={t("write.choice", { n: number })}
        onSeek={listen}
        compact
      />
      <div class="row">
        <Button
          pressed={plays}
          label={t(plays ? "write.stopChoice" : "write.playChoice", { n: number })}
          onClick={() => (plays ? stop() : listen())}
        >
          {t(plays ? "play.stop" : "play.play")}
        </Button>
        <Button
          label={t("write.useChoice", { n: number })}
          onClick={() => {
            stop();
            change(score);
          }}
        >
          {t("write.use")}
        </Button>
      </div>
    </li>
  );
}
