/** The page: navigation between the rooms, settings, and the current room. */

import { lazy, Suspense } from "preact/compat";
import { useErrorBoundary } from "preact/hooks";

import { Button } from "./components/controls";
import { SettingsMenu } from "./components/settings-menu";
import { t } from "./i18n";
import { Listen } from "./rooms/listen/listen";
import { Recommend } from "./rooms/recommend/recommend";
import { Watch } from "./rooms/watch/watch";
import { room, ROOMS, type Room } from "./state/rooms";

// The largest room; its packages are loaded on first use.
const Write = lazy(async () => ({ default: (await import("./rooms/write/write")).Write }));

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
  const name = t(`room.${room.value}`);
  document.title = `${name} · ${t("app.name")}`;
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
        <SettingsMenu />
      </header>
      <main id="content" tabIndex={-1}>
        <h1>{name}</h1>
        <RoomView key={room.value} room={room.value} />
      </main>
    </>
  );
}

/** The current room; if it fails to load or render, the others still work. */
function RoomView({ room: shown }: { room: Room }) {
  const [error] = useErrorBoundary();
  if (error !== undefined) {
    return (
      <div class="panel" role="alert">
        <p>{t("error.room")}</p>
        <Button onClick={() => location.reload()}>{t("error.reload")}</Button>
      </div>
    );
  }
  const View = VIEWS[shown];
  return <View />;
}

function focusContent(event: MouseEvent): void {
  event.preventDefault(); // the default action would replace the name of the room in the address
  document.getElementById("content")?.focus();
}
