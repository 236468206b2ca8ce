/** Panels that request an inspired piece and show its result. */

import { Button, Select } from "../../components/controls";
import { TrackAudio } from "../../components/track-audio";
import { formatNumber, t } from "../../i18n";
import { history, like } from "../recommend/state";
import { composing } from "./actions";
import { inspiration, inspire, inspiring, mood, MOODS } from "./inspiration";
import { canInspire } from "./models";
import { settings } from "./state";

export function InspirePanel() {
  if (!canInspire.value) return null;
  return (
    <section class="panel" aria-labelledby="inspire">
      <h2 id="inspire">{t("inspire.title")}</h2>
      <div class="row end">
        <Select
          label={t("inspire.mood")}
          value={mood.value}
          options={[["", t("write.any")], ...MOODS.map((each) => [each, t(`mood.${each}`)] as const)]}
          onChange={(value) => (mood.value = value)}
        />
        <Button primary disabled={composing.value || inspiring.value} onClick={() => void inspire()}>
          {t(inspiring.value ? "inspire.busy" : "inspire.go")}
        </Button>
      </div>
      <p class="hint">{t("inspire.hint", { bars: settings.value.bars })}</p>
    </section>
  );
}

/** Classification of the last inspired piece, and similar tracks. */
export function InspirationPanel() {
  const found = inspiration.value;
  if (!found) return null;
  const percent = formatNumber(100 * found.probability);
  return (
    <section class="panel" aria-labelledby="inspiration">
      <div class="row spread">
        <h2 id="inspiration">{t("inspire.soundsLike", { label: found.label, percent })}</h2>
        <Button small onClick={() => (inspiration.value = null)}>
          {t("write.close")}
        </Button>
      </div>
      {found.emotion && <p class="hint">{t("inspire.emotion", { emotion: found.emotion.replaceAll("_", " ") })}</p>}
      <h3>{t("inspire.tracks")}</h3>
      <ol class="found">
        {found.tracks.map(({ id, title, artist }) => {
          const name = title ?? id;
          const isLiked = history.value.includes(id);
          return (
            <li key={id}>
              <span class="clip">
                {name}
                {artist ? <small> {artist}</small> : null}
              </span>
              <TrackAudio id={id} title={name} />
              <Button small disabled={isLiked} label={t("recommend.likeTrack", { title: name })} onClick={() => like(id, title)}>
                {t(isLiked ? "recommend.liked" : "recommend.like")}
              </Button>
            </li>
          );
        })}
      </ol>
      {!found.tracks.length && <p class="hint">{t("inspire.noTracks")}</p>}
      <p class="hint" data-inspired-ms={found.totalMs}>
        {t("inspire.latency", { total: formatNumber(found.totalMs), render: formatNumber(found.renderMs) })}
      </p>
    </section>
  );
}
