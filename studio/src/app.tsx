/** The frame around the rooms: their names, the theme, and the API key. */

import { effect } from "@preact/signals";
import { lazy, Suspense } from "preact/compat";

import { useApiKey } from "./api/client";
import { TextField } from "./components/controls";
import { t } from "./i18n";
import { Listen } from "./rooms/listen/listen";
import { Recommend } from "./rooms/recommend/recommend";
import { Watch } from "./rooms/watch/watch";
import { persisted, isString } from "./state/persisted";
import { room, ROOMS, type Room } from "./state/rooms";

// The largest room; its packages are loaded when it is opened.
const Write = lazy(async () => ({ default: (await import("./rooms/write/write")).Write }));

type Theme = "auto" | "light" | "dark";
const isTheme = (value: unknown): value is Theme => value === "auto" || value === "light" || value === "dark";

const theme = persisted<Theme>("theme", "auto", isTheme);
const key = persisted("key", "", isString);

effect(() => {
  if (theme.value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
});
effect(() => useApiKey(key.value || null));

const VIEWS: Record<Room, () => preact.JSX.Element> = {
  listen: () => <Listen />,
  write: () => (
    <Suspense fallback={<p class="hint">{t("app.loading")}</p>}>
      <Write />
    </Suspense>
  ),
  recommend: () => <Recommend />,
  watch: () => <Watch />,
};

export function App() {
  const View = VIEWS[room.value];
  document.title = `${t(`room.${room.value}`)} · ${t("app.name")}`;
  return (
    <>
      <a class="skip" href="#content" onClick={focusContent}>
        {t("app.skip")}
      </a>
      <header class="top">
        <p class="brand">{t("app.name")}</p>
        <nav aria-label={t("app.rooms")}>
          <ul>
            {ROOMS.map((each) => (
              <li key={each}>
                <a href={`#/${each}`} aria-current={room.value === each ? "page" : undefined}>
                  {t(`room.${each}`)}
                </a>
              </li>
            ))}
          </ul>
        </nav>
        <details class="settings">
          <summary>{t("app.settings")}</summary>
          <div class="settings-box">
            <fieldset>
              <legend>{t("app.theme")}</legend>
              {(["auto", "light", "dark"] as const).map((each) => (
                <label key={each}>
                  <input
                    type="radio"
                    name="theme"
                    checked={theme.value === each}
                    onChange={() => (theme.value = each)}
                  />{" "}
                  {t(`theme.${each}`)}
                </label>
              ))}
            </fieldset>
            <TextField label={t("app.key")} type="password" value={key.value} onInput={(value) => (key.value = value)} />
            <small class="hint">{t("app.keyHint")}</small>
          </div>
        </details>
      </header>
      <main id="content" tabIndex={-1}>
        <h1>{t(`room.${room.value}`)}</h1>
        <View />
      </main>
    </>
  );
}

function focusContent(event: MouseEvent): void {
  event.preventDefault(); // the address names the room
  document.getElementById("content")?.focus();
}
