/** Panel to select a known listener, or to like and skip tracks. */

import { Button, TextField } from "../../components/controls";
import { Status } from "../../components/status";
import { t } from "../../i18n";
import {
  examples,
  history,
  like,
  page,
  query,
  remove,
  removeAll,
  search,
  searching,
  showMore,
  skipped,
  titleOf,
  user,
} from "./state";

export function ListenerPanel() {
  return (
    <section class="panel" aria-labelledby="listener">
      <h2 id="listener">{t("recommend.listener")}</h2>
      <TextField
        label={t("recommend.search")}
        type="search"
        value={query.value}
        onInput={search}
      />
      <Status task={searching} busyText={t("recommend.searching")} />
      <Found />
      {!history.value.length && !skipped.value.length && <p class="hint">{t("recommend.noHistory")}</p>}
      <Chips title={t("recommend.history")} ids={history.value} />
      <Chips title={t("recommend.skipped")} ids={skipped.value} />
      {(history.value.length > 0 || skipped.value.length > 0) && (
        <Button small onClick={removeAll}>
          {t("recommend.clear")}
        </Button>
      )}
      <div class="group">
        <TextField
          label={t("recommend.user")}
          placeholder={t("recommend.userHint")}
          value={user.value}
          onInput={(value) => (user.value = value)}
        />
        <Examples />
      </div>
    </section>
  );
}

function Examples() {
  if (!examples.value.length) return null;
  return (
    <div class="row" role="group" aria-label={t("recommend.examples")}>
      <span class="hint" aria-hidden="true">
        {t("recommend.examples")}
      </span>
      {examples.value.map((id) => {
        const isChosen = user.value === id;
        return (
          <Button key={id} small pressed={isChosen} onClick={() => (user.value = isChosen ? "" : id)}>
            {id}
          </Button>
        );
      })}
    </div>
  );
}

function Found() {
  const found = page.value;
  if (!found) return null;
  return (
    <>
      <ul class="found" aria-label={t("recommend.found")}>
        {found.tracks.map((track) => (
          <li key={track.track_id}>
            <span class="clip">
              {track.title ?? track.track_id}
              {track.artist ? <small> {track.artist}</small> : null}
            </span>
            <Button
              small
              disabled={history.value.includes(track.track_id)}
              label={t("recommend.addTrack", { title: track.title ?? track.track_id })}
              onClick={() => like(track.track_id)}
            >
              {history.value.includes(track.track_id) ? "✓" : "+"}
            </Button>
          </li>
        ))}
        {!found.tracks.length && <li class="hint">{t("recommend.nothing", { query: query.value })}</li>}
      </ul>
      {found.total > found.tracks.length && (
        <Button small onClick={showMore}>
          {t("recommend.more", { n: found.tracks.length, total: found.total })}
        </Button>
      )}
    </>
  );
}

function Chips({ title, ids }: { title: string; ids: string[] }) {
  if (!ids.length) return null;
  return (
    <div class="chips">
      <h3>
        {title} ({ids.length})
      </h3>
      <ul>
        {[...ids].reverse().map((id) => (
          <li key={id}>
            <span class="clip">{titleOf(id)}</span>
            <button type="button" aria-label={t("recommend.remove", { title: titleOf(id) })} onClick={() => remove(id)}>
              ×
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
