/** A line of code with a button that copies it. */

import { useEffect, useState } from "preact/hooks";

import { t } from "../i18n";
import { Button } from "./controls";

const SHOWN_MS = 2_000;

export function CopyLine({ text }: { text: string }) {
  const [state, setState] = useState<"idle" | "copied" | "failed">("idle");

  useEffect(() => {
    if (state === "idle") return;
    const timer = setTimeout(() => setState("idle"), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [state]);

  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text); // there is no clipboard without TLS, except on loopback
      setState("copied");
    } catch {
      setState("failed");
    }
  };

  return (
    <div class="code">
      <code>{text}</code>
      <Button onClick={() => void copy()}>{t(state === "copied" ? "copy.done" : "copy.copy")}</Button>
      <span role="status" class={state === "failed" ? "hint" : "visually-hidden"}>
        {state === "idle" ? "" : t(state === "copied" ? "copy.done" : "copy.failed")}
      </span>
    </div>
  );
}
