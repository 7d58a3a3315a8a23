//! A guide, from a whole program to the day it runs in production.
