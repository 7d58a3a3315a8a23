-- The script that people write by hand: GCRA over one key, as redis-cell does it, in seconds.
local burst, interval, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local then_full_at = full_at + interval * cost
local early = then_full_at - interval * burst - now
if early > 0 then return {1, 0, tostring(early), tostring(full_at - now)} end
redis.call('SET', KEYS[1], tostring(then_full_at), 'EX', math.ceil(then_full_at - now))
return {0, math.floor(-early / interval), '-1', tostring(then_full_at - now)}
