-- Fences keys off from copies of older versions. KEYS: the copies. ARGV: [1] the life of a fence in
-- ms; then the version of each.
-- Returns 1, and the time.
--
-- Safe at any time, and any number of times: a fence only raises a version.
local time = redis.call('TIME')
local life = tonumber(ARGV[1])
for at = 1, #KEYS do
  local version, known = tonumber(ARGV[at + 1]), -1
  local stored = redis.call('GET', KEYS[at])
  if stored and #stored >= 9 and string.byte(stored) == 1 then
    local _
    _, _, known = struct.unpack('<BBI7', stored)
  end
  if known < version then
    redis.call('SET', KEYS[at], struct.pack('<BBI7', 1, 0, version), 'PX', life)
  elseif known == version and redis.call('PTTL', KEYS[at]) < life then
    redis.call('PEXPIRE', KEYS[at], life)
  end
end
return {1, time[1] * 1000000 + time[2]}
