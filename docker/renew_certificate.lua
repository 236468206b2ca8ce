-- Uses a renewed certificate without a reload: new connections get it, and open connections keep theirs.
--
--   TRITONE_TLS_PEM            certificate, chain and key in one file, absolute path; a renewal replaces it
--   TRITONE_TLS_RELOAD_S 10    seconds between checks of the file
--
-- HAProxy 2.6 accepts a certificate here whose key belongs to another one, and all handshakes fail from then on. Each new
-- certificate is therefore set on the frontend `certificate_trial` of haproxy-tls.cfg first, and on the TLS ports only
-- after a handshake with that frontend.

local path = os.getenv("TRITONE_TLS_PEM")
local interval_ms = math.floor(1000 * (tonumber(os.getenv("TRITONE_TLS_RELOAD_S") or "") or 10))
local TRIAL_PATH = "/." .. path -- the same file under another name, which HAProxy keeps apart
local TRIAL_ADDRESS = os.getenv("TRITONE_TLS_TRIAL")

local function content()
  local file = io.open(path, "rb")
  if not file then
    return nil -- it is being replaced
  end
  local text = file:read("a")
  file:close()
  return text
end

local function handshake()
  local socket = core.tcp()
  socket:settimeout(5)
  local is_connected, problem = socket:connect_ssl(TRIAL_ADDRESS, 0)
  if is_connected then
    is_connected, problem = socket:send("GET / HTTP/1.0\r\n\r\n")
    local line = is_connected and socket:receive("*l")
    is_connected = line ~= nil and line ~= false
  end
  socket:close()
  return is_connected, problem
end

-- Where CertCache.set fails, OpenSSL's error stays in a queue of its thread, and HAProxy 2.6 ends the next connection that
-- it finds it on. Files that are half written or lack a part must not get there.
local function is_whole(text)
  local _, n_begun = text:gsub("%-%-%-%-%-BEGIN [%u ]+%-%-%-%-%-", "")
  local _, n_ended = text:gsub("%-%-%-%-%-END [%u ]+%-%-%-%-%-", "")
  return n_begun == n_ended and text:find("-----END CERTIFICATE-----", 1, true) ~= nil
    and text:find("PRIVATE KEY-----", 1, true) ~= nil
end

local function renew(text)
  if not is_whole(text) then
    error("expected PEM with a certificate and its private key", 0)
  end
  CertCache.set({filename = TRIAL_PATH, crt = text})
  if not handshake() then
    error("the key does not belong to the certificate", 0)
  end
  CertCache.set({filename = path, crt = text})
end

local seen = content()

core.register_task(function()
  while true do
    core.msleep(interval_ms)
    local text = content()
    if text and text ~= seen then
      seen = text
      local is_renewed, problem = pcall(renew, text)
      if is_renewed then
        core.log(core.notice, "certificate " .. path .. " was renewed")
      else
        core.log(core.err, "certificate " .. path .. " cannot be used, the one before stays: " .. tostring(problem))
      end
    end
  end
end)
