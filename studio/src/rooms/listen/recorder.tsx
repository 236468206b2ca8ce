/** Recording from the microphone as WAV, because not every server can decode the browser's own format. */

import { useEffect, useRef, useState } from "preact/hooks";

import { Button } from "../../components/controls";
import { formatTime, t } from "../../i18n";

const MAX_DURATION_S = 60;

interface Session {
  context: AudioContext;
  stream: MediaStream;
  recorder: MediaRecorder;
  parts: Blob[];
}

export function Recorder({ onRecording }: { onRecording: (file: Blob) => void }) {
  const session = useRef<Session | null>(null);
  const [seconds, setSeconds] = useState<number | null>(null);
  const [error, setError] = useState<string | null>(null);

  const finish = () => {
    session.current?.recorder.stop();
  };

  const start = async () => {
    setError(null);
    try {
      const stream = await navigator.mediaDevices.getUserMedia({
        audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
      });
      const own: Session = { context: new AudioContext(), stream, recorder: new MediaRecorder(stream), parts: [] };
      own.recorder.ondataavailable = (event) => own.parts.push(event.data);
      own.recorder.onstop = () => void done(own);
      own.recorder.start();
      session.current = own;
      setSeconds(0);
    } catch {
      setError(t("listen.noMicrophone"));
    }
  };

  const done = async (own: Session) => {
    own.stream.getTracks().forEach((track) => track.stop());
    session.current = null;
    setSeconds(null);
    try {
      const samples = await own.context.decodeAudioData(await new Blob(own.parts).arrayBuffer());
      onRecording(wavOf(samples));
    } catch {
      setError(t("listen.noMicrophone"));
    } finally {
      await own.context.close();
    }
  };

  useEffect(() => {
    if (seconds === null) return;
    const timer = setTimeout(() => {
      if (seconds + 1 >= MAX_DURATION_S) finish();
      else setSeconds(seconds + 1);
    }, 1000);
    return () => clearTimeout(timer);
  }, [seconds]);

  useEffect(() => () => session.current?.stream.getTracks().forEach((track) => track.stop()), []);

  return (
    <div class="recorder">
      {seconds === null ? (
        <>
          <Button onClick={() => void start()}>{t("listen.record")}</Button>
          <p class="hint">{t("listen.longest", { seconds: MAX_DURATION_S })}</p>
        </>
      ) : (
        <Button primary onClick={finish}>
          {t("listen.stop", { time: formatTime(seconds) })}
        </Button>
      )}
      {error && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
    </div>
  );
}

/** Return samples as a WAV file with 16-bit samples and interleaved channels. */
export function wavOf(samples: AudioBuffer): Blob {
  const channels = Array.from({ length: samples.numberOfChannels }, (_, index) => samples.getChannelData(index));
  const bytes = samples.length * channels.length * 2;
  const view = new DataView(new ArrayBuffer(44 + bytes));
  const text = (at: number, word: string) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels.length, true);
  view.setUint32(24, samples.sampleRate, true);
  view.setUint32(28, samples.sampleRate * channels.length * 2, true);
  view.setUint16(32, channels.length * 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, bytes, true);
  let at = 44;
  for (let i = 0; i < samples.length; i += 1) {
    for (const channel of channels) {
      const value = Math.max(-1, Math.min(1, channel[i] ?? 0));
      view.setInt16(at, value < 0 ? value * 0x8000 : value * 0x7fff, true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}
