/** Ideas: the pieces of the last interpolation or sampling, to play and to use as the score. */

import { play, playingId, position, stop } from "../../audio/player";
import { Button } from "../../components/controls";
import { PianoRoll } from "../../components/piano-roll";
import { t } from "../../i18n";
import type { Score } from "../../music/notes";
import { reportSoundError, soundError } from "./actions";
import { change, ideas, instrumented } from "./state";

export function IdeaList() {
  if (!ideas.value.length) return null;
  const close = () => {
    if (playingId.value?.startsWith("idea-")) stop();
    ideas.value = [];
  };
  return (
    <section class="panel" aria-labelledby="ideas">
      <div class="row spread">
        <h2 id="ideas">{t("write.ideas")}</h2>
        <Button small onClick={close}>{t("write.close")}</Button>
      </div>
      <ol class="ideas">
        {ideas.value.map((each, index) => (
          <Idea key={index} score={each} number={index + 1} />
        ))}
      </ol>
    </section>
  );
}

function Idea({ score, number }: { score: Score; number: number }) {
  const id = `idea-${number}`;
  const plays = playingId.value === id;
  const listen = (from = 0) => {
    soundError.value = null;
    play({ id, score: () => instrumented(score), from }).catch(reportSoundError);
  };
  return (
    <li>
      <PianoRoll
        score={score}
        position={plays ? position.value : 0}
        label={t("write.idea", { n: number })}
        onSeek={listen}
        compact
      />
      <div class="row">
        <Button
          pressed={plays}
          label={t(plays ? "write.stopIdea" : "write.playIdea", { n: number })}
          onClick={() => (plays ? stop() : listen())}
        >
          {t(plays ? "play.stop" : "play.play")}
        </Button>
        <Button
          label={t("write.useIdea", { n: number })}
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
