/** Synthesiser with a SoundFont that the gateway serves. */

import type { WorkletSynthesizer } from "spessasynth_lib";
import processorUrl from "spessasynth_lib/dist/spessasynth_processor.min.js?url";

import { t } from "../i18n";

const SOUND_FONT_URL = "/studio/soundfont.sf2";

let context: AudioContext | null = null;
let loading: Promise<WorkletSynthesizer> | null = null;

/** Return the audio context of all playback; browsers start it only after a click or key press. */
export function audioContext(): AudioContext {
  context ??= new AudioContext();
  return context;
}

/** Return the synthesiser; the first call loads it. */
export function synthesizer(): Promise<WorkletSynthesizer> {
  loading ??= load().catch((error: unknown) => {
    loading = null; // a later call tries again
    throw error;
  });
  return loading;
}

async function load(): Promise<WorkletSynthesizer> {
  const audio = audioContext();
  const [{ WorkletSynthesizer }, response] = await Promise.all([
    import("spessasynth_lib"),
    fetch(SOUND_FONT_URL),
    audio.audioWorklet.addModule(processorUrl),
  ]);
  if (!response.ok) throw new Error(t("play.noSoundFont", { status: response.status }));
  const synth = new WorkletSynthesizer(audio);
  synth.connect(audio.destination);
  await synth.soundBankManager.addSoundBank(await response.arrayBuffer(), "main");
  await synth.isReady;
  return synth;
}
