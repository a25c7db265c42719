"""The theorems of generalized denoising auto-encoders in small spaces, exactly: `dither experiment gdae-consistency`.

experiment    the five parts, and the figures
spaces        the small spaces, and what is known of them beforehand
counts        counting from n pairs, plainly and by walkback
clamped       clamped chains, by enumeration
energies      energies from one x~ and along a path
curve         data near a closed curve in R^10, with a kernel density
"""
