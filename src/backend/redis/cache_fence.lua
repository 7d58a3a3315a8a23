-- Fences keys off from copies of older versions. KEYS: the copies. ARGV: [1] the life of a fence in
-- ms; then the version of each, or 0 if it is not known: then all copies from before now are.
-- Returns 1, and the time.
--
-- Safe at any time, and any number of times: a fence only raises a version, or a time.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local life = tonumber(ARGV[1])
for at = 1, #KEYS do
  local version = tonumber(ARGV[at + 1])
  local flags, known, as_of = 0, 0, 0
  local stored = redis.call('GET', KEYS[at])
  if stored and #stored >= 16 and string.byte(stored) == 1 then
    local _
    _, flags, known, as_of = struct.unpack('<BBI7I7', stored)
  end
  if version == 0 then
    redis.call('SET', KEYS[at], struct.pack('<BBI7I7', 1, 2, known, now), 'PX', life)
  elseif known < version then
    if flags ~= 2 then flags, as_of = 0, 0 end
    redis.call('SET', KEYS[at], struct.pack('<BBI7I7', 1, flags, version, as_of), 'PX', life)
  elseif known == version and redis.call('PTTL', KEYS[at]) < life then
    redis.call('PEXPIRE', KEYS[at], life)
  end
end
return {1, now}
