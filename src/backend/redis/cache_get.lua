-- Reads the copy of a record. KEYS: [1] the copy.
-- Returns 1, the time, and the copy or nothing.
local time = redis.call('TIME')
return {1, time[1] * 1000000 + time[2], redis.call('GET', KEYS[1])}
